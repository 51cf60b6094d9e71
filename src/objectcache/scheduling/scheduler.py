"""Who gets how much bandwidth: a pure state machine. Events in, rates out; no sockets, no clock of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf

from objectcache.errors import ConfigError
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
from objectcache.scheduling.filling import narrowest
from objectcache.scheduling.flow import Flow
from objectcache.scheduling.guard import guarantee, share_equally, weigh
from objectcache.scheduling.lookahead import Lookahead
from objectcache.scheduling.policies import Equal, Policy, Proportional, Slack, Stall

POLICIES: Mapping[str, Callable[[], Policy]] = {
    "equal": Equal,
    "proportional": Proportional,
    "stall": Stall,
    "slack": Slack,
    "lookahead": Lookahead,
}
DEFAULT_POLICY = "lookahead"


@dataclass(frozen=True, slots=True)
class Decision:
    """`bytes_s` for each delivery under way (inf: no cap on its way), good until `until_s` or the next event."""

    bytes_s: Mapping[int, float]
    until_s: float = inf


class Scheduler:
    """The deliveries that share some links. All rates are of payload.

    Tell what happens with `apply`, before a decision what has been sent by then above all, and ask with `decide`: when
    a delivery is admitted or ends, a cap or windows change, and when the last decision is no longer good. Between what
    it is told it takes deliveries to send at their rates. A rate of 0 is a pause.
    """

    def __init__(self, policy: str = DEFAULT_POLICY, caps: Mapping[str, float] | None = None) -> None:
        """`caps`: bytes a second, by link. Raises ConfigError for a policy that there is not, or a negative cap."""
        self._caps = {link: _cap(bytes_s) for link, bytes_s in (caps or {}).items()}
        self._flows: dict[int, Flow] = {}
        self._links: dict[int, tuple[str, ...]] = {}
        self._weights: dict[str, float] = {}
        self._decided_s = -inf
        self._changed = True
        self._set_policy(policy)

    @property
    def policy(self) -> str:
        return self._name

    def _set_policy(self, name: str) -> None:
        if name not in POLICIES:
            raise ConfigError(f"no scheduling policy {name!r}: there are {', '.join(POLICIES)}")
        self._name = name
        self._policy = POLICIES[name]()

    def apply(self, event: Event) -> None:
        """Take note of `event`. Events of deliveries that have ended, or never began, are ignored.

        Raises ConfigError for a policy that there is not, for a negative cap, for a weight that is not positive.
        """
        match event:
            case Sent() | Landed() | WindowsChanged():
                flow = self._flows.get(event.delivery)
                if flow is None:
                    return
                if isinstance(event, Sent):
                    flow.told_sent(event.total_bytes, event.now_s)
                elif isinstance(event, Landed):
                    flow.told_landed(event.units, event.now_s)
                else:
                    flow.set_windows(event.windows_s, event.ready_s)
                    self._changed = True
                return
            case Admitted():
                self._links[event.delivery] = event.links
                self._flows[event.delivery] = flow = Flow(event)
                flow.links = self._capped(event.links)
            case Ended():
                self._flows.pop(event.delivery, None)
                self._links.pop(event.delivery, None)
            case CapChanged():
                if event.bytes_s is None:
                    self._caps.pop(event.link, None)
                else:
                    self._caps[event.link] = _cap(event.bytes_s)
                for number, flow in self._flows.items():
                    flow.links = self._capped(self._links[number])
            case WeightChanged():
                if not 0 < event.weight < inf:
                    raise ConfigError(f"a tenant's weight is positive, not {event.weight}")
                self._weights[event.tenant] = event.weight
            case PolicyChanged():
                self._set_policy(event.policy)
        self._changed = True

    def _capped(self, links: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(link for link in dict.fromkeys(links) if link in self._caps)

    def decide(self, now_s: float) -> Decision:
        """The rates from `now_s` on."""
        lasted_s = max(0.0, now_s - self._decided_s) if self._decided_s > -inf else 0.0
        flows = []
        rates = dict.fromkeys(self._flows, inf)
        for flow in self._flows.values():
            if not flow.links:
                flow.rate = 0.0
                continue
            flow.equal_bytes += flow.equal_rate * lasted_s
            if flow.use.judged(now_s, flow.rate):
                self._changed = True
            flow.at(now_s)
            if flow.use.limit < inf and not flow.use.limited(narrowest(flow, self._caps)):
                self._changed = True
            flows.append(flow)
        self._decided_s = max(self._decided_s, now_s)
        if not flows:
            return Decision(rates)
        changed, self._changed = self._changed, False
        if changed:
            weigh(flows, self._weights)
            share_equally(flows, self._caps)
        room = {link: self._caps[link] for flow in flows for link in flow.links}
        guarantee(flows, room)
        until_s = self._policy.allot([flow for flow in flows if not flow.done], room, now_s, changed)
        for flow in flows:
            rates[flow.number] = flow.rate
        return Decision(rates, until_s)


def _cap(bytes_s: float) -> float:
    if not bytes_s >= 0:
        raise ConfigError(f"a link carries 0 bytes/s or more, not {bytes_s}")
    return bytes_s
