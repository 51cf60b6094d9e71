"""The policies that need no plan: `equal`, `proportional`, `stall` and `slack`, behind one interface."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, sqrt
from typing import Protocol

from objectcache.scheduling.filling import Room, fill, take
from objectcache.scheduling.flow import Flow

STEP_S = 5e-3  # how long a decision of a policy that follows deadlines is good for
SHORTEST_WINDOW_S = 1e-4  # of a unit, where a rate is proportional to its inverse
AGING = 0.5


class Policy(Protocol):
    """Shares links among flows. May keep a plan from call to call; must depend on nothing but its calls."""

    def allot(self, flows: Sequence[Flow], room: Room, now_s: float, changed: bool) -> float:
        """Raise the flows' rates until no link has room for any of them; take it off `room`. Until when (s) it is good.

        Flows are refreshed (`Flow.at`), have bytes left, and cross capped links only; their rates are what the guard
        gave them. `changed`: other flows, windows or caps than in the last call.
        """


def fill_used(flows: Sequence[Flow], room: Room, weights: Sequence[float]) -> None:
    """What a flow would not use goes to the others first, and to it only if none of them can have it."""
    if any(flow.use.limit < inf for flow in flows):
        fill(flows, room, weights, [flow.use.limit for flow in flows])
    fill(flows, room, weights)


class Equal:
    """Max-min by weight: what is not used by one, since another link holds it back, goes to the others."""

    def allot(self, flows: Sequence[Flow], room: Room, now_s: float, changed: bool) -> float:
        fill_used(flows, room, [flow.weight for flow in flows])
        return inf


class Proportional:
    """By b/c: bytes over window of the units that are left."""

    def allot(self, flows: Sequence[Flow], room: Room, now_s: float, changed: bool) -> float:
        weights = []
        for flow in flows:
            units = len(flow.ends) - flow.unit
            weights.append(flow.weight * flow.left_bytes / max(units * SHORTEST_WINDOW_S, flow.span_s))
        fill_used(flows, room, weights)
        return now_s + STEP_S


class Stall:
    """The paper's: least sum of max(0, b/r - c). Rates are as √b, none above b/c; what is left is shared equally."""

    def allot(self, flows: Sequence[Flow], room: Room, now_s: float, changed: bool) -> float:
        weights, ceilings = [], []
        for flow in flows:
            after = len(flow.ends) - flow.unit - 1
            unit_bytes = (flow.left_bytes - flow.head_bytes) / after if after else flow.left_bytes
            weights.append(sqrt(flow.weight * max(1.0, unit_bytes)))
            hidden = unit_bytes * after / flow.span_s if flow.span_s > 0 else inf
            ceilings.append(min(flow.use.limit, hidden))
        fill(flows, room, weights, ceilings)
        fill_used(flows, room, [flow.weight for flow in flows])
        return now_s + STEP_S


class Slack:
    """By remaining bytes: each takes what keeps its next unit on time, all of it if that is late, the rest flows on.

    Who has got less than equal sharing would have given counts as having fewer bytes left (aging). A gang is as late as
    its latest member, and counts with the bytes of all.
    """

    def allot(self, flows: Sequence[Flow], room: Room, now_s: float, changed: bool) -> float:
        late_s = lateness(flows, now_s)
        left: dict[str | int, float] = {}
        for flow in flows:
            behind = max(0.0, flow.equal_bytes - flow.position)
            key = (flow.left_bytes - AGING * behind) / flow.weight
            left[flow.gang] = left.get(flow.gang, 0.0) + key
        order = sorted(flows, key=lambda flow: (left[flow.gang], flow.number))
        for flow in order:
            rest_s = flow.due_s + late_s[flow.gang] - now_s
            wanted = flow.head_bytes / rest_s if rest_s > 0 else inf
            take(flow, room, min(wanted, flow.use.limit) - flow.rate)
        for flow in order:
            take(flow, room, flow.use.limit - flow.rate)
        for flow in order:
            take(flow, room, inf)
        return now_s + STEP_S


def lateness(flows: Sequence[Flow], now_s: float) -> dict[str | int, float]:
    """How late each gang's engine step is by now: as late as its latest member has been."""
    late_s: dict[str | int, float] = {}
    for flow in flows:
        late = max(flow.late_s, now_s - flow.due_s)
        if late > late_s.get(flow.gang, 0.0):
            late_s[flow.gang] = late
        else:
            late_s.setdefault(flow.gang, 0.0)
    return late_s
