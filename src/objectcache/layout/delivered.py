"""Where everything lies in the destination of a delivery, and in which order it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from operator import ge

from objectcache.errors import LayoutError
from objectcache.layout.sections import Sections
from objectcache.layout.stored import align_up


@dataclass(frozen=True, slots=True)
class PartShape:
    """What is delivered of one shard: `num_chunks` chunks of each of `layers`.

    `held` says what of it the receiver has already, and is not sent: pairs (below_layer, chunks), the first `chunks`
    chunks of layers below `below_layer`. From pair to pair `below_layer` falls and `chunks` grows.
    """

    layers: tuple[int, ...]
    slice_bytes: tuple[int, ...]
    num_chunks: int
    held: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if not self.layers or len(self.layers) != len(self.slice_bytes):
            raise LayoutError(
                f"a part needs at least one layer and one slice size per layer, got {len(self.layers)} layers and "
                f"{len(self.slice_bytes)} sizes"
            )
        # As a whole: one is made on the way to a first byte, of any number of layers.
        if any(map(ge, self.layers, self.layers[1:])):
            raise LayoutError("the layers of a part must ascend")
        if self.num_chunks < 1 or min(self.slice_bytes) < 1:
            raise LayoutError(f"a part has at least one chunk of at least one byte, got {self.num_chunks} chunks")
        if not self.held:
            return
        steps = zip(self.held, self.held[1:], strict=False)
        if any(below <= next_below or chunks >= next_chunks for (below, chunks), (next_below, next_chunks) in steps):
            raise LayoutError("from step to step of what is held, layers fall and chunks grow")
        if not (self.held[0][1] > 0 and self.held[-1][1] <= self.num_chunks and self.held[-1][0] > 0):
            raise LayoutError(f"what is held must lie within {self.num_chunks} chunks, got {self.held}")

    def held_chunks(self, layer: int) -> int:
        """How many of the first chunks of `layer` are not sent."""
        return next((chunks for below, chunks in reversed(self.held) if layer < below), 0)


@lru_cache(maxsize=64)
def delivery_geometry(parts: tuple[PartShape, ...], layers_per_unit: int) -> DeliveryGeometry:
    """The geometry, computed once: prefixes of one length are delivered alike. Raises as `DeliveryGeometry`."""
    return DeliveryGeometry(parts, layers_per_unit)


@dataclass(frozen=True)
class DeliveryGeometry:
    """Delivery order, units, and where each layer of each part lies in the destination.

    Layers are delivered in ascending order, whatever part they are of. The destination holds them in that order,
    each layer of each part as one contiguous array (num_chunks, slice_bytes) on a 4 KiB boundary.
    """

    parts: tuple[PartShape, ...]
    layers_per_unit: int
    order: tuple[int, ...] = field(init=False, repr=False)
    units: tuple[tuple[int, ...], ...] = field(init=False, repr=False)
    total_bytes: int = field(init=False)
    payload_bytes: int = field(init=False)
    _places: dict[tuple[int, int], tuple[int, int]] = field(init=False, repr=False, compare=False)
    _parts_of: dict[int, tuple[int, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.layers_per_unit < 1:
            raise LayoutError(f"layers_per_unit must be positive, got {self.layers_per_unit}")
        order = tuple(sorted({layer for part in self.parts for layer in part.layers}))
        positions = [{layer: i for i, layer in enumerate(part.layers)} for part in self.parts]
        places: dict[tuple[int, int], tuple[int, int]] = {}
        parts_of: dict[int, tuple[int, ...]] = {}
        at = payload = 0
        for layer in order:
            parts_of[layer] = tuple(index for index, held in enumerate(positions) if layer in held)
            for index in parts_of[layer]:
                part, position = self.parts[index], positions[index][layer]
                size = part.num_chunks * part.slice_bytes[position]
                places[index, layer] = (at, position)
                payload += size
                at = align_up(at + size)
        step = self.layers_per_unit
        object.__setattr__(self, "order", order)
        object.__setattr__(self, "units", tuple(order[i : i + step] for i in range(0, len(order), step)))
        object.__setattr__(self, "total_bytes", at)
        object.__setattr__(self, "payload_bytes", payload)
        object.__setattr__(self, "_places", places)
        object.__setattr__(self, "_parts_of", parts_of)

    def parts_of(self, layer: int) -> tuple[int, ...]:
        """Indices of the parts that hold `layer`, ascending; none for a layer that is not delivered."""
        return self._parts_of.get(layer, ())

    def offset(self, part: int, layer: int) -> int:
        """Byte offset in the destination of `part`'s array of `layer`."""
        return self._places[part, layer][0]

    def position(self, part: int, layer: int) -> int:
        """Index of `layer` among the part's own layers."""
        return self._places[part, layer][1]

    def layer_bytes(self, part: int, layer: int) -> int:
        shape = self.parts[part]
        return shape.num_chunks * shape.slice_bytes[self.position(part, layer)]

    def wanted_bytes(self, part: int, layer: int) -> int:
        """What is sent of `layer` of `part`: all that is not held."""
        shape = self.parts[part]
        return (shape.num_chunks - shape.held_chunks(layer)) * shape.slice_bytes[self.position(part, layer)]

    @cached_property
    def unit_of(self) -> Mapping[int, int]:
        """By layer."""
        return {layer: unit for unit, layers in enumerate(self.units) for layer in layers}

    @cached_property
    def sections(self) -> Sections:
        """What of it is told of by itself."""
        return Sections(self)

    @cached_property
    def unit_wanted_bytes(self) -> tuple[int, ...]:
        """Of each unit, what is sent."""
        return tuple(self._sums(self.wanted_bytes))

    @cached_property
    def least_layer_bytes(self) -> int:
        """Of the smallest layer, all parts together."""
        return min(sum(self.layer_bytes(part, layer) for part in self.parts_of(layer)) for layer in self.order)

    @cached_property
    def unit_bytes(self) -> tuple[int, ...]:
        """Of each unit, held or not."""
        return tuple(self._sums(self.layer_bytes))

    def _sums(self, bytes_of: Callable[[int, int], int]) -> Iterator[int]:
        for layers in self.units:
            yield sum(bytes_of(part, layer) for layer in layers for part in self.parts_of(layer))
