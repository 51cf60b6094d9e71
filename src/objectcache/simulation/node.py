"""A serving node under the simulated clock: its queue, what it loads ahead, and its engine's steps."""

from __future__ import annotations

from dataclasses import dataclass

import simpy

from objectcache.scheduling import Admitted, WindowsChanged
from objectcache.scheduling.pipeline import ttft_s
from objectcache.simulation.gateway import SimulatedGateway, Steps, client_link
from objectcache.simulation.planning import Prefill, advised, plan_units
from objectcache.simulation.settings import Fabric


@dataclass(slots=True)
class Outcome:
    """`ttft_s` from arrival to first token; `local_s` is what it had been with all prefixes in local memory.
    `payload_bytes` of `chunks` were sent, `layers_per_unit` layers at a time (0: nothing was)."""

    local_s: float
    ttft_s: float = 0.0
    payload_bytes: int = 0
    chunks: int = 0
    layers_per_unit: int = 0

    @property
    def added_s(self) -> float:
        return self.ttft_s - self.local_s


class SimulatedNode:
    """Requests are computed in the order in which they come, one at a time."""

    def __init__(self, env: simpy.Environment, fabric: Fabric, number: int, gateway: SimulatedGateway) -> None:
        self._env = env
        self._fabric = fabric
        self._gateway = gateway
        self._links = ("store", "nic", client_link(number))
        self._loads = simpy.Resource(env, 1 + fabric.loads_ahead)
        self._engine = simpy.Resource(env, 1)
        self._free_s = 0.0
        """When the request that is computed will be, if it need not wait any more."""

    def serve(self, number: int, tenant: str, prefill: Prefill, outcome: Outcome) -> Steps:
        """One request, from its arrival on. Without a prefix to load it takes its turn all the same."""
        env, arrival_s = self._env, self._env.now
        with self._loads.request() as place:
            yield place
            with self._engine.request() as turn:
                if prefill.chunks:
                    yield env.timeout(self._fabric.request_s)
                    yield from self._load(number, tenant, prefill, outcome, turn)
                else:
                    yield turn
                    self._free_s = env.now + prefill.compute_s
                yield env.timeout(max(0.0, self._free_s - env.now))
        outcome.ttft_s = env.now - arrival_s

    def _load(self, number: int, tenant: str, prefill: Prefill, outcome: Outcome, turn: simpy.Event) -> Steps:
        """Until all has been sent, and it is known when the prefill ends."""
        env, fabric, gateway = self._env, self._fabric, self._gateway
        ahead = not turn.triggered
        rate_bytes_s = gateway.expected_bytes_s(self._links)
        if fabric.advice and not ahead:
            prefill = advised(fabric, prefill, rate_bytes_s)
        if not prefill.chunks:
            self._free_s = env.now + prefill.compute_s
            return
        units = plan_units(fabric, prefill, rate_bytes_s)
        ready_s = max(env.now, self._free_s) if ahead else None
        event = Admitted(env.now, number, self._links, units.unit_bytes, units.windows_s, ready_s, tenant=tenant)
        flow, end = gateway.deliver(event)
        yield turn
        began_s = env.now
        self._free_s = began_s + prefill.compute_s
        if ahead and not end.triggered:
            gateway.tell(WindowsChanged(began_s, number, units.windows_s, began_s))
        yield end
        self._free_s = ttft_s(flow.landed_s, units.windows_s, begin_s=began_s) + prefill.later_s
        outcome.payload_bytes = int(flow.sent_bytes)
        outcome.chunks = prefill.chunks
        outcome.layers_per_unit = units.layers_per_unit
