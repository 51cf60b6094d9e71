"""Nobody gets much less than equal sharing would have given: what bounds starving, and what a lie can take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from objectcache.scheduling.filling import Room, fill
from objectcache.scheduling.flow import Flow

MOST_BEHIND = 1.0
ENDING = 1 / 8


def weigh(flows: Iterable[Flow], tenants: Mapping[str, float]) -> None:
    """Tenants share by their weights, a tenant's deliveries share alike; with one tenant, each counts 1."""
    flows = list(flows)
    counts = Counter(flow.tenant for flow in flows)
    whole = sum(tenants.get(tenant, 1.0) for tenant in counts)
    for flow in flows:
        flow.weight = tenants.get(flow.tenant, 1.0) / whole * len(flows) / counts[flow.tenant]


def share_equally(flows: Sequence[Flow], caps: Room) -> None:
    """Set what equal sharing gives each now (`equal_rate`, bytes/s): no more than it uses, if it uses little."""
    for flow in flows:
        flow.rate = 0.0
    fill(flows, dict(caps), [flow.weight for flow in flows], [flow.use.limit for flow in flows])
    for flow in flows:
        flow.equal_rate = flow.rate
        flow.rate = 0.0


def guarantee(flows: Sequence[Flow], room: Room) -> None:
    """Start with its equal share each that is `MOST_BEHIND` times its own bytes behind equal sharing.

    Those that have sent all begin with a little: their end is still to be said."""
    for flow in flows:
        flow.rate = 0.0
        if flow.done:
            flow.rate = ENDING * flow.equal_rate
        elif flow.equal_bytes - flow.position > MOST_BEHIND * flow.total:
            flow.rate = flow.equal_rate
        else:
            continue
        for link in flow.links:
            room[link] = max(0.0, room[link] - flow.rate)
