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
PLACED = 24  # flows are weighed in one decision, give or take one order
PARTS = 16  # of what a link carries in a step: one flow is not served more than that at once
BETTER = 1e-6  # an order must gain that part

Gang = str | int


class Lookahead:
    """A plan is an order of gangs. In that order each gets the least lateness that is possible beside those before it
    (`demand`), and the plan's cost is the weighted sum of these. Each decision tries an order or some with one gang
    elsewhere, and keeps what costs less: the search goes on as long as there is time. Then bytes go by due dates."""

    def __init__(self) -> None:
        self._order: list[Gang] = []
        self._late_s: dict[Gang, float] = {}
        self._cost = inf
        self._trusted = 0
        self._dice = 1

    def allot(self, flows: Sequence[Flow], room: Room, now_s: float, changed: bool) -> float:
        """As `Policy` says."""
        gangs: dict[Gang, list[Flow]] = {}
        for flow in flows:
            gangs.setdefault(flow.gang, []).append(flow)
        caps = dict(room)
        for flow in flows:
            for link in flow.links:
                caps[link] += flow.rate  # what the guard gave is the flow's all the same
        self._plan(gangs, caps, now_s, changed)
        _by_due_dates([_Chain(flow, self._late_s[flow.gang], caps) for flow in flows], room)
        return now_s + STEP_S

    def _plan(self, gangs: dict[Gang, list[Flow]], caps: Room, now_s: float, changed: bool) -> None:
        if changed or len(self._order) != len(gangs):
            self._order = _with_newcomers(self._order, gangs)
            self._trusted = 0
        placed = 0
        if self._trusted == 0:
            self._cost, self._late_s = _weigh(self._order, gangs, caps, now_s, inf)
            self._trusted = TRUSTED
            placed = len(gangs)
        self._trusted -= 1
        while len(gangs) > 1 and placed + len(gangs) <= PLACED:
            order = self._another()
            enough = self._cost * (1 - BETTER)
            cost, late_s = _weigh(order, gangs, caps, now_s, enough)
            placed += len(late_s)
            if cost < enough:
                self._order, self._cost, self._late_s = order, cost, late_s

    def _another(self) -> list[Gang]:
        """The order with one gang moved elsewhere. Dice that fall the same way in every replay."""
        order = list(self._order)
        count = min(len(order), LOOKED_AHEAD)
        self._dice = (self._dice * 1103515245 + 12345) % 2**31
        origin = (self._dice >> 8) % count
        place = (self._dice >> 16) % (count - 1)
        gang = order.pop(origin)
        order.insert(place + (place >= origin), gang)
        return order


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


def _weigh(
    order: list[Gang], gangs: dict[Gang, list[Flow]], caps: Room, now_s: float, enough: float
) -> tuple[float, dict[Gang, float]]:
    """Weighted sum of the gangs' least lateness in that order, and each one's. Stops early at a sum of `enough`."""
    links = {link: Link(now_s, cap) for link, cap in caps.items() if cap > 0}
    late_s: dict[Gang, float] = {}
    cost = 0.0
    queued = 0.0
    for place, gang in enumerate(order):
        late = 0.0
        flows = gangs[gang]
        for flow in flows:
            due_s, total, span_s = flow.due_s, flow.left_bytes, flow.span_s
            if flow.late_s > late:
                late = flow.late_s
            if now_s - due_s > late:
                late = now_s - due_s
            if place >= LOOKED_AHEAD:
                queued += total / max(1.0, min(caps[link] for link in flow.links))
                late = max(late, now_s + queued - due_s - span_s)
                continue
            head = flow.head_bytes if span_s > 0 else total
            for link in flow.links:
                if link in links:
                    late = links[link].least(due_s, head, total, span_s, late)
            limit = flow.use.limit
            if limit < inf:
                late = max(late, now_s + head / limit - due_s, now_s + total / limit - due_s - span_s)
            for link in flow.links:
                if link in links:
                    links[link].place(due_s + late, head, total, span_s)
        late_s[gang] = late
        cost += flows[0].weight * late
        if cost >= enough:
            return cost, late_s
    return cost, late_s


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
    order = [chains[index].flow for _, index, _ in sorted(queue)]
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
        for flow in order:
            take(flow, room, flow.use.limit - flow.rate)
        for flow in order:
            take(flow, room, inf)
