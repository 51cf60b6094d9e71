"""What receiving processes are told of a delivery: all of it, or how it differs from what they were told before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from objectcache.errors import DeliveryError
from objectcache.keys import KeyChain
from objectcache.layout import DeliveryGeometry, PartShape, delivery_geometry
from objectcache.transports.receiver import ExpectedPart
from objectcache.workers.channel import Message

SLOTS = 4
"""Orders that processes keep which may never be confirmed. What is told in a slot takes the place of what was there."""


@dataclass(frozen=True, slots=True)
class Order:
    """What comes. Parts are in the order of the geometry's."""

    geometry: DeliveryGeometry
    parts: Sequence[ExpectedPart]

    def to_map(self) -> Message:
        return {
            "layers_per_unit": self.geometry.layers_per_unit,
            "parts": [
                (part.group, part.shard, part.keys.data, shape.layers, shape.slice_bytes, shape.num_chunks, shape.held)
                for part, shape in zip(self.parts, self.geometry.parts, strict=True)
            ],
        }

    @classmethod
    def of(cls, message: Message) -> Order:
        """The inverse of `to_map`."""
        shapes, parts = [], []
        for group, shard, keys, layers, slice_bytes, num_chunks, held in message["parts"]:
            shapes.append(PartShape(tuple(layers), tuple(slice_bytes), num_chunks, _steps(held)))
            parts.append(ExpectedPart(group, shard, KeyChain(keys)))
        return cls(delivery_geometry(tuple(shapes), message["layers_per_unit"]), parts)

    def difference(
        self, parts: Sequence[ExpectedPart], shapes: Sequence[PartShape], layers_per_unit: int
    ) -> Message | None:
        """What `revised` makes the order of those of this one by: nothing where they are the same. None where it
        cannot: a part is no prefix of this one's. Needs no geometry, which takes time."""
        mine = self.geometry.parts
        if [(part.group, part.shard) for part in parts] != [(part.group, part.shard) for part in self.parts]:
            return None
        for part, shape, told, told_shape in zip(parts, shapes, self.parts, mine, strict=True):
            rows = (shape.layers, shape.slice_bytes) == (told_shape.layers, told_shape.slice_bytes)
            if not rows or shape.num_chunks > told_shape.num_chunks or not told.keys.data.startswith(part.keys.data):
                return None
        if mine == tuple(shapes) and self.geometry.layers_per_unit == layers_per_unit:
            return {}
        return {"layers_per_unit": layers_per_unit, "sizes": [(shape.num_chunks, shape.held) for shape in shapes]}

    def revised(self, message: Message) -> Order:
        """By what `difference` says. Raises DeliveryError where it says something else."""
        if "sizes" not in message:
            return self
        shapes, parts = [], []
        for part, shape, (num_chunks, held) in zip(self.parts, self.geometry.parts, message["sizes"], strict=True):
            if num_chunks > shape.num_chunks:
                raise DeliveryError("more is to come than there may be room for")
            shapes.append(replace(shape, num_chunks=num_chunks, held=_steps(held)))
            parts.append(replace(part, keys=part.keys[:num_chunks]))
        return Order(delivery_geometry(tuple(shapes), message["layers_per_unit"]), parts)


def _steps(held: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((below, chunks) for below, chunks in held)
