"""A serving node under the simulated clock: its queue, what it loads ahead, and its engine's steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import simpy

from objectcache.scheduling import Admitted, WindowsChanged
from objectcache.simulation.gateway import SimulatedGateway, Steps, client_link
from objectcache.simulation.planning import Planned


@dataclass(slots=True)
class Outcome:
    """`ttft_s` from arrival to first token; `local_s` is what it had been with all prefixes in local memory. Of these
    `payload_bytes` of the `unit_bytes` that were asked for were sent."""

    ttft_s: float
    local_s: float
    payload_bytes: int
    layers_per_unit: int

    @property
    def added_s(self) -> float:
        return self.ttft_s - self.local_s


def computed_s(began_s: float, landed_s: Sequence[float], windows_s: Sequence[float]) -> float:
    """When an engine that began at `began_s` has computed all units, each once it has landed."""
    now_s = began_s
    for landed, window in zip(landed_s, windows_s, strict=True):
        now_s = (landed if landed > now_s else now_s) + window
    return now_s


class SimulatedNode:
    """Requests are computed in the order in which they come, one at a time."""

    def __init__(
        self, env: simpy.Environment, number: int, gateway: SimulatedGateway, loads_ahead: int, request_s: float
    ) -> None:
        self._env = env
        self._link = client_link(number)
        self._gateway = gateway
        self._request_s = request_s
        self._loads = simpy.Resource(env, 1 + loads_ahead)
        self._engine = simpy.Resource(env, 1)
        self._free_s = 0.0

    def serve(self, number: int, planned: Planned, outcome: Outcome) -> Steps:
        """One request, from its arrival on."""
        env = self._env
        arrival_s = env.now
        with self._loads.request() as place:
            yield place
            with self._engine.request() as turn:
                if planned.unit_bytes:
                    yield env.timeout(self._request_s)
                    ready_s = None if turn.triggered else self._free_s
                    flow, end = self._gateway.deliver(
                        Admitted(
                            env.now,
                            number,
                            ("store", "nic", self._link),
                            planned.unit_bytes,
                            planned.windows_s,
                            ready_s,
                            tenant=planned.tenant,
                        )
                    )
                waited = not turn.triggered
                yield turn
                began_s = env.now
                self._free_s = began_s + planned.compute_s
                if planned.unit_bytes:
                    if waited and not end.triggered:
                        self._gateway.tell(WindowsChanged(began_s, number, planned.windows_s, began_s))
                    yield end
                    outcome.payload_bytes = int(flow.sent_bytes)
                    self._free_s = computed_s(began_s, flow.landed_s, planned.windows_s) + planned.later_s
                yield env.timeout(max(0.0, self._free_s - env.now))
                outcome.ttft_s = self._free_s - arrival_s
