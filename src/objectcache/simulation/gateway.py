"""A gateway under the simulated clock: wakes its flows when something is due."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from math import inf, isfinite
from typing import Any

import simpy

from objectcache.scheduling import Admitted, Event, Scheduler
from objectcache.simulation.flows import Flow, GatewayFlows
from objectcache.simulation.settings import Fabric

Steps = Generator[simpy.Event, Any, None]


class SimulatedGateway:
    """One gateway, with the links that its deliveries cross. `nodes` are those that have their session with it."""

    def __init__(self, env: simpy.Environment, fabric: Fabric, policy: str, nodes: range) -> None:
        caps = {"store": fabric.store_share_bytes_s, "nic": fabric.nic_bytes_s}
        caps |= {client_link(node): fabric.client_bytes_s for node in nodes}
        self._caps = {link: cap for link, cap in caps.items() if isfinite(cap)}
        scheduler = Scheduler(policy, self._caps)
        self._env = env
        self._flows = GatewayFlows(scheduler, fabric.landing_s)
        self._ends: dict[int, simpy.Event] = {}
        self._decide_s = fabric.decide_s
        self._timer = 0
        self._deciding = False

    def expected_bytes_s(self, links: Sequence[str]) -> float:
        """What one more delivery could have now: what nobody uses of its links, or an equal share; inf: no cap."""
        least = inf
        for link in links:
            if link in self._caps:
                crossing, used_bytes_s = self._flows.use(link)
                least = min(least, max(self._caps[link] - used_bytes_s, self._caps[link] / (crossing + 1)))
        return least

    def deliver(self, event: Admitted) -> tuple[Flow, simpy.Event]:
        """Begin a delivery now. The event is when its last byte has left."""
        self._advance()
        end = self._ends[event.delivery] = self._env.event()
        flow = self._flows.admit(event)
        self._decide_soon()
        return flow, end

    def tell(self, event: Event) -> None:
        """What the scheduler is to know from now on."""
        self._advance()
        self._flows.tell(event)
        self._decide_soon()

    def _advance(self) -> None:
        for flow in self._flows.advance(self._env.now):
            self._ends.pop(flow.admitted.delivery).succeed()

    def _decide_soon(self) -> None:
        """Once for all that happens at this very time."""
        if not self._deciding:
            self._deciding = True
            self._call_in(0.0, self._decide)

    def _decide(self) -> None:
        self._deciding = False
        self._advance()
        until_s, ends_s = self._flows.decide()
        next_s = min(max(until_s, self._env.now + self._decide_s), ends_s)
        self._timer += 1
        if next_s < inf:
            timer = self._timer
            self._call_in(max(0.0, next_s - self._env.now), lambda: self._due(timer))

    def _due(self, timer: int) -> None:
        if timer == self._timer and not self._deciding:  # else something came between, and set another
            self._decide()

    def _call_in(self, delay_s: float, call: Any) -> None:
        event = self._env.timeout(delay_s)
        assert event.callbacks is not None
        event.callbacks.append(lambda _: call())


def client_link(node: int) -> str:
    return f"client {node}"
