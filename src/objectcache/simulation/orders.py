"""The best that can be done with a few requests that come at once, to measure policies by: every order is tried."""

from __future__ import annotations

from itertools import permutations
from math import inf

from objectcache.scheduling.demand import Link
from objectcache.simulation.mixes import Mix, MixRequest


def least_added_s(mix: Mix) -> float:
    """The least mean added TTFT (s) of any order, of requests that all come at once.

    In an order, each request has the least lateness that is possible beside those before it, unit by unit: exact for
    that order, since serving by due dates keeps whatever can be kept. Takes factorial time: for up to 6 requests.
    """
    best = inf
    for order in permutations(mix.requests):
        link = Link(0.0, mix.cap_bytes_s)
        total = 0.0
        for request in order:
            total += _placed(link, request)
            if total >= best:
                break
        best = min(best, total)
    return best / len(mix.requests)


def _placed(link: Link, request: MixRequest) -> float:
    """Give `request` its place, as early as there is room. How late it is (s)."""
    late_s = 0.0
    for layer in range(request.layers):
        by_then = (layer + 1) * request.layer_bytes
        late_s = link.least(layer * request.window_s, by_then, by_then, 0.0, late_s)
    for layer in range(request.layers):
        link.place(layer * request.window_s + late_s, request.layer_bytes, request.layer_bytes, 0.0)
    return late_s
