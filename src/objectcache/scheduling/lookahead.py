"""Ours: bandwidth to what is due first, where due dates move by the lateness that the best order found allows."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from math import inf

from objectcache.scheduling.demand import Link
from objectcache.scheduling.filling import Room, take
from objectcache.scheduling.flow import Flow
from objectcache.scheduling.policies import STEP_S

LOOKED_AHEAD = 24  # so many flows, first in order, are weighed exactly; the others follow one after the other
TRUSTED = 8  # decisions, until the order in force is weighed anew though nothing has changed
PLACED = 20  # flows are weighed in one decision, give or take one order
TRYING = 2  # what an order costs beside, in flows weighed
PARTS = 16  # of what a link carries in a step: one flow is not served more than that at once
LEAST_CAP = 1.0  # bytes/s: a link that carries nothing is waited for as if it did
BETTER = 1e-6  # an order must gain that part

Gang = str | int


class Lookahead:
    """A plan is an order of gangs. In that order each gets the least lateness that is possible beside those before it
    (`demand`), and the plan's cost is the weighted sum of these. Each decision tries an order or some with one gang
    elsewhere, and keeps what costs less: the search goes on as long as there is time. Then bytes go by due dates."""

    def __init__(self) -> None:
        self._plan: _Plan | None = None
        self._trusted = 0
        self._dice = 1

    def allot(self, flows: Sequence[Flow], room: Room, now_s: float, changed: bool) -> float:
        """As `Policy` says."""
        if not flows:
            self._plan = None
            return inf
        caps = dict(room)
        for flow in flows:
            if flow.rate:
                for link in flow.links:
                    caps[link] += flow.rate  # what the guard gave is the flow's all the same
        plan = self._plan
        placed = 0
        if plan is None or changed or self._trusted == 0 or any(flow.gang not in plan.late_s for flow in flows):
            gangs: dict[Gang, list[Flow]] = {}
            for flow in flows:
                gangs.setdefault(flow.gang, []).append(flow)
            order = _with_newcomers(plan.order if plan else [], gangs)
            demands = {gang: _demand(members, caps, now_s) for gang, members in gangs.items()}
            plan = _Plan(order, demands, caps, now_s)
            placed = len(order)
            self._trusted = TRUSTED
        self._trusted -= 1
        while len(plan.order) > 1 and placed + len(plan.order) <= PLACED:
            other, more = plan.moved(*self._throw(len(plan.order)))
            placed += more + TRYING
            plan = other or plan
        self._plan = plan
        _by_due_dates([_Chain(flow, plan.late_s[flow.gang], caps) for flow in flows], room)
        return now_s + STEP_S

    def _throw(self, count: int) -> tuple[int, int]:
        """Which gang to move, and where to. Dice that fall the same way in every replay."""
        count = min(count, LOOKED_AHEAD)
        self._dice = (self._dice * 1103515245 + 12345) % 2**31
        origin = (self._dice >> 8) % count
        place = (self._dice >> 16) % (count - 1)
        return origin, place + (place >= origin)


def _with_newcomers(order: list[Gang], gangs: dict[Gang, list[Flow]]) -> list[Gang]:
    """Those that are left in their order, each newcomer before the first that has more bytes left for its weight."""
    size = {gang: sum(flow.left_bytes for flow in flows) / flows[0].weight for gang, flows in gangs.items()}
    kept = [gang for gang in order if gang in gangs]
    known = set(kept)
    for gang in sorted((gang for gang in gangs if gang not in known), key=lambda gang: (size[gang], str(gang))):
        place = 0
        while place < len(kept) and size[kept[place]] <= size[gang]:
            place += 1
        kept.insert(place, gang)
    return kept


Part = tuple[float, float, float, float, tuple[str, ...]]
"""Of one flow: when it is due, head, total and span as `Link` takes them, and the links that carry anything."""
Demand = tuple[float, float, list[Part]]
"""Of one gang: its weight, the lateness that it would have if there were no others, its flows."""
Mark = tuple[dict[str, Link], float]


def _demand(flows: Sequence[Flow], caps: Room, now_s: float) -> Demand:
    late = 0.0
    parts = []
    for flow in flows:
        due_s, total, span_s = flow.due_s, flow.left_bytes, flow.span_s
        head = flow.head_bytes if span_s > 0 else total
        rate = flow.use.limit
        for link in flow.links:
            if 0 < caps[link] < rate:
                rate = caps[link]
        since_s = now_s - due_s
        late = max(late, flow.late_s, since_s + head / rate, since_s + total / rate - span_s)
        parts.append((due_s, head, total, span_s, flow.links))
    return flows[0].weight, late, parts


class _Plan:
    """An order of gangs, weighed: the least lateness of each (`late_s`), and the weighted sum (`cost`).

    What is weighed is how things were at `now_s`. Orders that are tried later are weighed by the same, from the first
    place on where they differ: `marks` are what links have left, and the cost, before each place."""

    __slots__ = ("caps", "cost", "demands", "late_s", "marks", "now_s", "order")

    def __init__(
        self, order: list[Gang], demands: dict[Gang, Demand], caps: Room, now_s: float, marks: Sequence[Mark] = ()
    ) -> None:
        self.order = order
        self.demands = demands
        self.caps = caps
        self.now_s = now_s
        self.late_s: dict[Gang, float] = {}
        self.marks: list[Mark] = list(marks)
        if not marks:
            links = {link: Link(now_s, max(cap, LEAST_CAP)) for link, cap in caps.items()}
            self.marks.append((links, sum(weight * late for weight, late, _ in demands.values())))
            self.cost = self._weigh(0, inf)
            self._follow()

    def moved(self, origin: int, place: int) -> tuple[_Plan | None, int]:
        """This plan with one gang elsewhere, if that costs less, and how many were placed to know it."""
        order = list(self.order)
        order.insert(place, order.pop(origin))
        first = min(origin, place)
        other = _Plan(order, self.demands, self.caps, self.now_s, self.marks[: first + 1])
        enough = self.cost * (1 - BETTER)
        other.cost = other._weigh(first, enough)
        placed = len(other.late_s)
        if other.cost >= enough:
            return None, placed
        other.late_s = {**self.late_s, **other.late_s}
        return other, placed

    def _weigh(self, first: int, enough: float) -> float:
        """The cost, with the gangs from place `first` on placed. Stops early at `enough`."""
        links, cost = self.marks[first]
        for gang in self.order[first:LOOKED_AHEAD]:
            links = {name: link.copy() for name, link in links.items()}
            weight, alone, parts = self.demands[gang]
            late = alone
            for due_s, head, total, span_s, crossed in parts:
                for name in crossed:
                    late = links[name].least(due_s, head, total, span_s, late)
                for name in crossed:
                    links[name].place(due_s + late, head, total, span_s)
            self.late_s[gang] = late
            if late > alone:
                cost += weight * (late - alone)
                if cost >= enough:
                    return cost
            self.marks.append((links, cost))
        return cost

    def _follow(self) -> None:
        """Those that are too many to be weighed come one after the other. They are no part of the cost."""
        begins_s = self.now_s
        for place, gang in enumerate(self.order if len(self.order) > LOOKED_AHEAD else ()):
            _, late, parts = self.demands[gang]
            for due_s, _, total, span_s, crossed in parts:
                begins_s += total / max(LEAST_CAP, min(self.caps[name] for name in crossed))
                late = max(late, begins_s - due_s - span_s)
            if place >= LOOKED_AHEAD:
                self.late_s[gang] = late


class _Chain:
    """A flow's units and when each is due, at the latest so that those after it can still be in time.

    A flow that is held back, by a slow link of its own or a client that takes little, has to begin so much earlier."""

    __slots__ = ("byte_s", "flow", "given", "held_s", "late_s", "start", "tail_s")

    def __init__(self, flow: Flow, late_s: float, caps: Room) -> None:
        self.flow = flow
        self.late_s = late_s
        pace, widest = flow.use.limit, 0.0
        for link in flow.links:
            cap = caps[link]
            pace = min(pace, cap)
            widest = max(widest, cap)
        self.byte_s = 1.0 / pace if pace > 0.0 else 0.0
        self.held_s = self.byte_s - 1.0 / widest if pace > 0.0 else 0.0
        self.tail_s = flow.dues_s[-1] + late_s - flow.total * self.byte_s
        self.start = flow.position + flow.rate * STEP_S
        self.given = 0.0

    def due_s(self, unit: int) -> float:
        end = self.flow.ends[unit]
        due_s = min(self.flow.dues_s[unit] + self.late_s, self.tail_s + end * self.byte_s)
        return due_s - (end - self.start - self.given) * self.held_s


def _by_due_dates(chains: Sequence[_Chain], room: Room) -> None:
    """Rates over the next step: the bytes that each flow sends in it if links serve what is due first."""
    budgets = {link: left * STEP_S for link, left in room.items()}
    most = max(budgets.values()) / PARTS
    queue = [(chain.due_s(chain.flow.unit), index, chain.flow.unit) for index, chain in enumerate(chains)]
    begun = list(queue)
    heapify(queue)
    open_links = sum(budget > 0.0 for budget in budgets.values())
    while queue and open_links:
        _, index, unit = heappop(queue)
        chain = chains[index]
        flow = chain.flow
        ends = flow.ends
        position = chain.start + chain.given
        wanted = ends[unit] - position
        if wanted < most:
            wanted = min(most, flow.total - position)
        sends = min(wanted, (flow.use.limit - flow.rate) * STEP_S - chain.given)
        for link in flow.links:
            if budgets[link] < sends:
                sends = budgets[link]
        if sends <= 0.0:
            continue
        for link in flow.links:
            budgets[link] -= sends
            open_links -= budgets[link] <= 0.0
        chain.given += sends
        position += sends
        if sends < wanted or position >= flow.total:
            continue
        while ends[unit] <= position:
            unit += 1
        heappush(queue, (chain.due_s(unit), index, unit))
    for chain in chains:
        if chain.given > 0.0:
            take(chain.flow, room, chain.given / STEP_S)
    if open_links:
        order = [chains[index].flow for _, index, _ in sorted(begun)]
        for flow in order:
            take(flow, room, flow.use.limit - flow.rate)
        for flow in order:
            take(flow, room, inf)
