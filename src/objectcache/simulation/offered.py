"""How much a workload asks of a fabric."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from objectcache.simulation.planning import plan_request
from objectcache.simulation.settings import Fabric
from objectcache.simulation.workload import Arrival


def request_load(fabric: Fabric, arrivals: Sequence[Arrival]) -> dict[str, float]:
    """Seconds that a request takes on the mean of all engines, and of all links of a kind that has a cap."""
    plans = [plan_request(fabric, arrival) for arrival in arrivals]
    sent_bytes = sum(sum(planned.unit_bytes) for planned in plans) / len(plans)
    capacities = {
        "store": fabric.store_bytes_s,
        "gateways": fabric.gateways * fabric.nic_bytes_s,
        "clients": fabric.nodes * fabric.client_bytes_s,
    }
    engines_s = sum(planned.compute_s for planned in plans) / len(plans) / fabric.nodes
    return {"engines": engines_s} | {name: sent_bytes / rate for name, rate in capacities.items() if isfinite(rate)}


def offered_load(fabric: Fabric, arrivals: Sequence[Arrival]) -> dict[str, float]:
    """What arrives as a share of what can be done from the first to the last arrival: above 1, queues grow.

    All at once is taken as within a second.
    """
    rate = len(arrivals) / (arrivals[-1].arrival_s or 1.0)
    return {name: seconds * rate for name, seconds in request_load(fabric, arrivals).items()}
