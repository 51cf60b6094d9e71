"""The deliveries of one gateway as fluids: bytes flow at the scheduler's rates, from decision to decision.

Pure: no clock of its own, and no fixed step. Between two decisions rates are constant, so that when units land and
deliveries end is arithmetic.
"""

from __future__ import annotations

from itertools import accumulate
from math import inf

from objectcache.scheduling import Admitted, Ended, Event, Scheduler, Sent


class Flow:
    """One delivery on its way. `landed_s[i]` is when unit i had landed, for those that have."""

    __slots__ = ("admitted", "ends_s", "landed_s", "rate_bytes_s", "sent_bytes", "total_bytes", "unit_ends")

    def __init__(self, admitted: Admitted) -> None:
        self.admitted = admitted
        self.unit_ends = list(accumulate(admitted.unit_bytes))
        self.total_bytes = self.unit_ends[-1]
        self.sent_bytes = 0.0
        self.rate_bytes_s = 0.0
        self.ends_s = inf
        self.landed_s: list[float] = []


class GatewayFlows:
    """`landing_s` is from a unit's last byte until it counts as landed. Times that are given never fall."""

    def __init__(self, scheduler: Scheduler, landing_s: float = 0.0) -> None:
        self._scheduler = scheduler
        self._landing_s = landing_s
        self._flows: dict[int, Flow] = {}
        self._now_s = 0.0

    def admit(self, event: Admitted) -> Flow:
        """A delivery begins; it has a rate with the next decision. To be called at `event.now_s`, after `advance`."""
        flow = self._flows[event.delivery] = Flow(event)
        self._scheduler.apply(event)
        return flow

    def tell(self, event: Event) -> None:
        """What the scheduler hears of from outside: windows, caps, weights."""
        self._scheduler.apply(event)

    def use(self, link: str) -> tuple[int, float]:
        """How many deliveries under way cross `link`, and how much of it they use (bytes/s)."""
        rates = [flow.rate_bytes_s for flow in self._flows.values() if link in flow.admitted.links]
        return len(rates), sum(rate for rate in rates if rate < inf)

    def advance(self, now_s: float) -> list[Flow]:
        """Let bytes flow until `now_s`. Returns the deliveries that have ended by then; they are forgotten here."""
        since_s, self._now_s = self._now_s, now_s
        ended = []
        for flow in self._flows.values():
            if flow.rate_bytes_s > 0:
                self._move(flow, since_s, now_s)
            if flow.sent_bytes >= flow.total_bytes:
                ended.append(flow)
        for flow in ended:
            del self._flows[flow.admitted.delivery]
            self._scheduler.apply(Ended(now_s, flow.admitted.delivery))
        return ended

    def decide(self) -> tuple[float, float]:
        """Ask the scheduler for rates from now on. Returns until when they are good, and when the first delivery ends
        with them; inf for never."""
        now_s = self._now_s
        for number, flow in self._flows.items():
            self._scheduler.apply(Sent(now_s, number, int(flow.sent_bytes)))
        decision = self._scheduler.decide(now_s)
        first_s = inf
        for number, flow in self._flows.items():
            rate = flow.rate_bytes_s = decision.bytes_s[number]
            flow.ends_s = now_s + (flow.total_bytes - flow.sent_bytes) / rate if rate > 0 else inf
            if flow.ends_s < first_s:
                first_s = flow.ends_s
        alone = len(self._flows) <= 1  # all that its links have is its, whatever the policy, until something happens
        return (inf if alone else decision.until_s), first_s

    def _move(self, flow: Flow, since_s: float, now_s: float) -> None:
        before, rate = flow.sent_bytes, flow.rate_bytes_s
        if flow.ends_s <= now_s:
            flow.sent_bytes = flow.total_bytes
        else:
            flow.sent_bytes = min(before + rate * (now_s - since_s), flow.total_bytes)
        landed, ends = flow.landed_s, flow.unit_ends
        while len(landed) < len(ends) and ends[len(landed)] <= flow.sent_bytes:
            landed.append(since_s + (ends[len(landed)] - before) / rate + self._landing_s)
