"""Mixes in the simulator: the requests of `mixes`, each on a node of its own, behind one link."""

from __future__ import annotations

from math import inf

from objectcache.simulation.mixes import Mix
from objectcache.simulation.run import simulate
from objectcache.simulation.settings import Fabric
from objectcache.simulation.workload import Arrival


def mix_added_s(mix: Mix, policy: str, *, request_s: float = 0.0, landing_s: float = 0.0) -> list[float]:
    """Added TTFT of each request, layer by layer through a gateway whose NIC is the link, and else nothing."""
    fabric = Fabric(
        nodes=len(mix.requests),
        nic_bytes_s=mix.cap_bytes_s,
        client_bytes_s=inf,
        request_s=request_s,
        landing_s=landing_s,
        layers_per_unit=1,
    )
    arrivals = [
        Arrival(
            arrival_s=request.arrival_s,
            context_tokens=request.context_tokens,
            hit_tokens=int(request.context_tokens * request.hit),
            node=node,
            window_s=request.window_s,
        )
        for node, request in enumerate(mix.requests)
    ]
    return [outcome.added_s for outcome in simulate(fabric, arrivals, policy)]
