"""Max-min shares over several links, by weight, up to ceilings: every policy's last resort, and all of `equal`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

from objectcache.scheduling.flow import Flow

Room = dict[str, float]
"""Bytes a second that are left of each capped link. Whoever takes some takes it off."""

NOTHING = 1e-9  # of a cap: less is rounding


def fill(flows: Sequence[Flow], room: Room, weights: Sequence[float], ceilings: Sequence[float] | None = None) -> None:
    """Raise the flows' rates together, in proportion to `weights`, each until a link of its own is full or its rate is
    at its ceiling (bytes/s). Flows have at least one capped link, weights are positive."""
    wanting = [
        (flow, weight, inf if ceilings is None else (ceilings[index] - flow.rate) / weight)
        for index, (flow, weight) in enumerate(zip(flows, weights, strict=True))
    ]
    if ceilings is not None:
        wanting = [entry for entry in wanting if entry[2] > 0]
    full = {link for link, left in room.items() if left <= 0}
    level = 0.0
    while True:
        if full:
            wanting = [entry for entry in wanting if full.isdisjoint(entry[0].links)]
        if not wanting:
            return
        load: dict[str, float] = {}
        lowest = inf
        for flow, weight, ceiling in wanting:
            lowest = min(lowest, ceiling)
            for link in flow.links:
                load[link] = load.get(link, 0.0) + weight
        step = lowest - level
        for link, weight in load.items():
            step = min(step, room[link] / weight)
        level += step
        for flow, weight, _ in wanting:
            flow.rate += step * weight
        for link, weight in load.items():
            left = room[link] - step * weight
            room[link] = left if left > NOTHING * step * weight else 0.0
            if room[link] <= 0.0:
                full.add(link)
        if level >= lowest:
            wanting = [entry for entry in wanting if entry[2] > level]


def take(flow: Flow, room: Room, bytes_s: float) -> float:
    """Give `flow` as much more of `bytes_s` as its links have. How much that is."""
    more = bytes_s
    for link in flow.links:
        more = min(more, room[link])
    if more <= 0.0:
        return 0.0
    for link in flow.links:
        room[link] -= more
    flow.rate += more
    return more


def narrowest(flow: Flow, caps: Mapping[str, float]) -> float:
    """The least cap on the way of `flow`, bytes/s."""
    return min(caps[link] for link in flow.links)
