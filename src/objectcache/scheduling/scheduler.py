"""Who gets how much bandwidth: a pure state machine. Events in, rates out; no sockets, no clock of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from objectcache.scheduling.events import (
    Admitted,
    CapChanged,
    Ended,
    Event,
    Landed,
    PolicyChanged,
    Sent,
    WeightChanged,
    WindowsChanged,
)


@dataclass(frozen=True, slots=True)
class Decision:
    """`bytes_s` for each delivery under way (payload; inf: no cap on its way), good until `until_s` or the next event."""

    bytes_s: Mapping[int, float]
    until_s: float = inf


class Scheduler:
    """The deliveries that share some links."""

    def __init__(self, policy: str = "equal", caps: Mapping[str, float] | None = None) -> None:
        """`caps`: bytes a second, by link."""
        self._policy = policy
        self._caps = dict(caps or {})
        self._deliveries: dict[int, Admitted] = {}

    def apply(self, event: Event) -> None:
        """Take note of `event`. Events of deliveries that have ended, or never began, are ignored."""
        match event:
            case Admitted():
                self._deliveries[event.delivery] = event
            case Ended():
                self._deliveries.pop(event.delivery, None)
            case CapChanged():
                if event.bytes_s is None:
                    self._caps.pop(event.link, None)
                else:
                    self._caps[event.link] = event.bytes_s
            case PolicyChanged():
                self._policy = event.policy
            case Sent() | Landed() | WindowsChanged() | WeightChanged():
                pass

    def decide(self, now_s: float) -> Decision:
        """The rates from `now_s` on."""
        rates = dict.fromkeys(self._deliveries, inf)
        for link, cap in self._caps.items():
            crossing = [number for number, admitted in self._deliveries.items() if link in admitted.links]
            for number in crossing:
                rates[number] = min(rates[number], cap / len(crossing))
        return Decision(rates)
