"""What a request is in the simulation: units as the gateway plans them, and how long the engine computes."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from objectcache.layout import KVLayout, PartShape, delivery_geometry
from objectcache.plan import choose_layers_per_unit
from objectcache.simulation.settings import Fabric
from objectcache.simulation.workload import Arrival


class Planned(NamedTuple):
    """Units in delivery order, none without a hit; `windows_s` follow each. `compute_s` is all of the prefill,
    `later_s` what of it comes in steps after the one that the load runs beside."""

    unit_bytes: tuple[int, ...]
    windows_s: tuple[float, ...]
    compute_s: float
    later_s: float
    layers_per_unit: int
    tenant: str


def plan_request(fabric: Fabric, arrival: Arrival) -> Planned:
    """As the gateway of `fabric` would deliver it."""
    layout = fabric.layout
    layers = len(layout.shard(0, 0).layers)
    chunks = arrival.hit_tokens // layout.key_tokens
    hit_tokens = chunks * layout.key_tokens
    tokens = arrival.context_tokens - hit_tokens
    steps = [arrival.window_s] if arrival.window_s is not None else fabric.engine.steps(hit_tokens, tokens)
    later_s = sum(steps[1:]) * layers
    compute_s = steps[0] * layers + later_s
    if not chunks:
        return Planned((), (), compute_s, later_s, 0, arrival.tenant)
    per_unit, unit_bytes, unit_layers = _units(layout, chunks, fabric.layers_per_unit)
    windows_s = tuple(steps[0] * count for count in unit_layers)
    return Planned(unit_bytes, windows_s, compute_s, later_s, per_unit, arrival.tenant)


@lru_cache(maxsize=1 << 14)
def _units(layout: KVLayout, chunks: int, layers_per_unit: int) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """Layers per unit; of each unit its bytes, and how many layers it has."""
    shard = layout.shard(0, 0)
    shape = PartShape(shard.layers, shard.slice_bytes, chunks)
    per_unit = layers_per_unit or choose_layers_per_unit((shape,))
    geometry = delivery_geometry((shape,), per_unit)
    return per_unit, geometry.unit_wanted_bytes, tuple(map(len, geometry.units))
