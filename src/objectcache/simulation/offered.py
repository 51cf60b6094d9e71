"""How much a workload asks of a fabric."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from objectcache.simulation.planning import plan_prefill
from objectcache.simulation.settings import Fabric
from objectcache.simulation.workload import Arrival


def request_load(fabric: Fabric, arrivals: Sequence[Arrival]) -> dict[str, float]:
    """Seconds that a request takes on the mean of all engines, and of all links of a kind that has a cap."""
    prefills = [plan_prefill(fabric, arrival) for arrival in arrivals]
    chunk_bytes = fabric.layout.shard(0, 0).chunk_bytes
    sent_bytes = chunk_bytes * sum(prefill.chunks for prefill in prefills) / len(prefills)
    capacities = {
        "store": fabric.store_bytes_s,
        "gateways": fabric.gateways * fabric.nic_bytes_s,
        "clients": fabric.nodes * fabric.client_bytes_s,
    }
    engines_s = sum(prefill.compute_s for prefill in prefills) / len(prefills) / fabric.nodes
    return {"engines": engines_s} | {name: sent_bytes / rate for name, rate in capacities.items() if isfinite(rate)}


def offered_load(fabric: Fabric, arrivals: Sequence[Arrival]) -> dict[str, float]:
    """What arrives as a share of what can be done from the first to the last arrival: above 1, queues grow.

    All at once is taken as within a second.
    """
    rate = len(arrivals) / (arrivals[-1].arrival_s or 1.0)
    return {name: seconds * rate for name, seconds in request_load(fabric, arrivals).items()}
