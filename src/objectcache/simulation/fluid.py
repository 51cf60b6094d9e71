"""A mix under the scheduler that ships, over a link that carries exactly what was decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from objectcache.scheduling import Admitted, Decision, Ended, Event, Scheduler, Sent
from objectcache.simulation.mixes import Mix, MixRequest

LINK = "link"
SHORTEST_STEP_S = 2e-3  # a decision is in force at least that long, if nothing begins or ends


@dataclass
class _Delivery:
    request: MixRequest
    sent: float = 0.0
    added_s: float = 0.0

    @property
    def left(self) -> float:
        return self.request.total_bytes - self.sent

    def send(self, bytes_s: float, now_s: float, until_s: float, end_s: float) -> None:
        """Lateness is known at every unit that lands on the way."""
        if bytes_s <= 0:
            return
        request = self.request
        before = int(self.sent / request.layer_bytes + 1e-9)
        start, self.sent = self.sent, self.sent + bytes_s * (until_s - now_s)
        if end_s <= until_s:
            self.sent = float(request.total_bytes)
        after = int(self.sent / request.layer_bytes + 1e-9)
        for layer in {before, after - 1} if after > before else ():  # linear in between
            landed_s = now_s + ((layer + 1) * request.layer_bytes - start) / bytes_s
            self.added_s = max(self.added_s, landed_s - request.arrival_s - layer * request.window_s)


def added_ttft_s(mix: Mix, scheduler: Scheduler, said_windows: float | Sequence[float] = 1.0) -> tuple[float, ...]:
    """Added TTFT (s) of each request when `scheduler`, which knows a cap for `LINK`, shares the link.

    Clients say their windows times `said_windows`, all the same or each its own."""
    said = [said_windows] * len(mix.requests) if isinstance(said_windows, float | int) else said_windows
    waiting = list(enumerate(mix.requests))
    active: dict[int, _Delivery] = {}
    added = [0.0] * len(waiting)
    now_s = 0.0
    while waiting or active:
        if not active:
            now_s = max(now_s, waiting[0][1].arrival_s)
        while waiting and waiting[0][1].arrival_s <= now_s:
            number, request = waiting.pop(0)
            active[number] = _Delivery(request)
            scheduler.apply(admission(number, request, now_s, said[number]))
        for number, delivery in active.items():
            scheduler.apply(Sent(now_s, number, int(delivery.sent)))
        decision = scheduler.decide(now_s)
        ends_s = _ends(active, decision, now_s)
        until_s = min(max(decision.until_s, now_s + SHORTEST_STEP_S), min(ends_s.values()))
        if waiting:
            until_s = min(until_s, waiting[0][1].arrival_s)
        for number, delivery in list(active.items()):
            delivery.send(decision.bytes_s[number], now_s, until_s, ends_s[number])
            if delivery.left <= 0:
                added[number] = active.pop(number).added_s
                scheduler.apply(Ended(until_s, number))
        now_s = until_s
    return tuple(added)


def admission(number: int, request: MixRequest, now_s: float, said_windows: float = 1.0) -> Event:
    """What a scheduler is told of `request`."""
    windows_s = (request.window_s * said_windows,) * request.layers
    return Admitted(now_s, number, (LINK,), (request.layer_bytes,) * request.layers, windows_s)


def _ends(active: dict[int, _Delivery], decision: Decision, now_s: float) -> dict[int, float]:
    rates = decision.bytes_s
    return {
        number: now_s + delivery.left / rates[number] if rates[number] > 0 else inf
        for number, delivery in active.items()
    }
