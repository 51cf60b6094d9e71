"""What a request is in the simulation: what there is to compute and to load, and units as the gateway plans them."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from objectcache.layout import KVLayout, PartShape, delivery_geometry
from objectcache.scheduling.advice import Offer, advise
from objectcache.scheduling.modes import choose_mode
from objectcache.simulation.settings import Fabric
from objectcache.simulation.workload import Arrival


class Prefill(NamedTuple):
    """`chunks` of a prompt of `prompt_tokens` are loaded, the rest is computed: each layer takes `window_s` in the step
    that the load runs beside, and all layers `later_s` in the steps behind it."""

    prompt_tokens: int
    chunks: int
    window_s: float
    later_s: float
    layers: int

    @property
    def compute_s(self) -> float:
        return self.layers * self.window_s + self.later_s


class Units(NamedTuple):
    """In delivery order, with the windows that follow each."""

    unit_bytes: tuple[int, ...]
    windows_s: tuple[float, ...]
    layers_per_unit: int


def plan_prefill(fabric: Fabric, arrival: Arrival) -> Prefill:
    """With all that is stored loaded, in whole chunks."""
    chunks = arrival.hit_tokens // fabric.layout.key_tokens
    if arrival.window_s is not None:
        return Prefill(arrival.context_tokens, chunks, arrival.window_s, 0.0, _layers(fabric.layout))
    return _computed(fabric, arrival.context_tokens, chunks)


def advised(fabric: Fabric, prefill: Prefill, rate_bytes_s: float) -> Prefill:
    """The same prompt with as much of the prefix as load-or-recompute says at that rate."""
    tokens = fabric.layout.key_tokens
    shard = fabric.layout.shard(0, 0)
    offer = Offer(
        prompt_tokens=prefill.prompt_tokens,
        matched_tokens=prefill.chunks * tokens,
        layer_bytes=tuple(prefill.chunks * size for size in shard.slice_bytes),
        boundary_tokens=tokens,
        step_tokens=fabric.engine.step_tokens,
    )
    advice = advise(
        offer,
        lambda step_tokens, context: fabric.engine.window_s(context, step_tokens),
        rate_bytes_s=rate_bytes_s,
        first_byte_s=fabric.request_s,
    )
    if advice.load_tokens == offer.matched_tokens:
        return prefill
    return _computed(fabric, prefill.prompt_tokens, advice.load_tokens // tokens)


def plan_units(fabric: Fabric, prefill: Prefill, rate_bytes_s: float) -> Units:
    """As a gateway that expects that rate delivers what is loaded."""
    shape = _shape(fabric.layout, prefill.chunks)
    layers_per_unit = fabric.layers_per_unit
    if not layers_per_unit:
        windows_s = (prefill.window_s,) * prefill.layers
        layers_per_unit = choose_mode((shape,), windows_s=windows_s, rate_bytes_s=rate_bytes_s).layers_per_unit
    unit_bytes, unit_layers = _units(shape, layers_per_unit)
    return Units(unit_bytes, tuple(prefill.window_s * count for count in unit_layers), layers_per_unit)


def _computed(fabric: Fabric, prompt_tokens: int, chunks: int) -> Prefill:
    hit_tokens = chunks * fabric.layout.key_tokens
    first_s, *later = fabric.engine.steps(hit_tokens, prompt_tokens - hit_tokens)
    layers = _layers(fabric.layout)
    return Prefill(prompt_tokens, chunks, first_s, sum(later) * layers, layers)


def _layers(layout: KVLayout) -> int:
    return len(layout.shard(0, 0).layers)


@lru_cache(maxsize=1 << 12)
def _shape(layout: KVLayout, chunks: int) -> PartShape:
    shard = layout.shard(0, 0)
    return PartShape(shard.layers, shard.slice_bytes, chunks)


@lru_cache(maxsize=1 << 14)
def _units(shape: PartShape, layers_per_unit: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of each unit its bytes, and how many layers it has."""
    geometry = delivery_geometry((shape,), layers_per_unit)
    return geometry.unit_wanted_bytes, tuple(map(len, geometry.units))
