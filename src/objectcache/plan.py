"""From what was resolved to what is sent: ranges of segments, in delivery order, cut into spans."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import msgpack

from objectcache.errors import DescriptorError
from objectcache.layout import (
    DIGEST_BYTES,
    DeliveryGeometry,
    LayerRow,
    PartShape,
    SegmentGeometry,
    Span,
    delivery_geometry,
    segment_geometry,
)
from objectcache.names import segment_tag
from objectcache.recent import Recent
from objectcache.segment import footer_bytes

if TYPE_CHECKING:
    from objectcache.catalog import Run  # a data worker plans nothing and needs no catalog
    from objectcache.descriptor import Versions


class PlanRun(NamedTuple):
    """Chunks [first, stop) of one segment; they land at chunk `at` of the part."""

    segment: str
    geometry: SegmentGeometry
    packed_row_digests: bytes
    leaf: bytes
    first: int
    stop: int
    at: int

    def row_digest(self, position: int) -> bytes:
        """The committed digest of the digest row of the layer at `position`."""
        return self.packed_row_digests[position * DIGEST_BYTES : (position + 1) * DIGEST_BYTES]

    def without(self, chunks: int) -> PlanRun:
        """This run without its first `chunks`."""
        return self._replace(first=self.first + chunks, at=self.at + chunks) if chunks > 0 else self

    @property
    def total_bytes(self) -> int:
        """Of the whole segment, as an object."""
        return self.geometry.footer_offset + footer_bytes(len(self.geometry.slice_bytes))


@dataclass(frozen=True)
class PlanPart:
    """`serial` names this very part among all that its process makes; 0: it has no name."""

    group: int
    shard: int
    shape: PartShape
    runs: tuple[PlanRun, ...]
    serial: int = 0

    @cached_property
    def segment_bytes(self) -> Mapping[str, int]:
        return {run.segment: run.total_bytes for run in self.runs}

    @cached_property
    def versions(self) -> Versions:
        """Which segments the chunks are of."""
        return tuple((run.stop - run.first, segment_tag(run.segment)) for run in self.runs)

    @cached_property
    def packed(self) -> bytes:
        runs = [
            (
                run.segment,
                run.geometry.num_chunks,
                run.geometry.header_bytes,
                run.packed_row_digests,
                run.leaf,
                run.first,
                run.stop,
                run.at,
            )
            for run in self.runs
        ]
        shape = self.shape
        shaped = (shape.layers, shape.slice_bytes, shape.num_chunks, shape.held)
        data: bytes = msgpack.packb((self.group, self.shard, *shaped, runs))
        return data

    @classmethod
    def unpacked(cls, serial: int, data: bytes) -> PlanPart:
        """The inverse of `packed`."""
        group, shard, layers, sizes, num_chunks, held, packed_runs = msgpack.unpackb(data, use_list=False)
        geometries: dict[tuple[int, int], SegmentGeometry] = {}  # by what differs between segments
        runs = []
        for name, chunks, header_bytes, digests, leaf, first, stop, at in packed_runs:
            geometry = geometries.get((chunks, header_bytes))
            if geometry is None:
                geometry = geometries[chunks, header_bytes] = segment_geometry(chunks, sizes, header_bytes)
            runs.append(PlanRun(name, geometry, digests, leaf, first, stop, at))
        return cls(group, shard, PartShape(layers, sizes, num_chunks, held), tuple(runs), serial)

    def wanted_runs(self, layer: int) -> Sequence[PlanRun]:
        """The runs of `layer` without what the receiver holds."""
        return self._runs_behind[self.shape.held_chunks(layer)]

    @cached_property
    def _runs_behind(self) -> Mapping[int, Sequence[PlanRun]]:
        """By how many of the first chunks are held."""
        behind: dict[int, Sequence[PlanRun]] = {0: self.runs}
        for _, held in self.shape.held:
            behind[held] = [run.without(held - run.at) for run in self.runs if run.at + run.stop - run.first > held]
        return behind

    def wanted(self, from_layer: int) -> tuple[int, int]:
        """(ranges, bytes of digest rows) that are read for what is sent of layers from `from_layer` on."""
        return self._all_wanted if from_layer <= self.shape.layers[0] else self._wanted(from_layer)

    @cached_property
    def _all_wanted(self) -> tuple[int, int]:
        return self._wanted(0)

    def _wanted(self, from_layer: int) -> tuple[int, int]:
        layers, at = self.shape.layers, bisect_left(self.shape.layers, from_layer)
        ranges = rows_bytes = 0
        for below, held in (*reversed(self.shape.held), (layers[-1] + 1, 0)):  # layers that lack the same, ascending
            stop = max(at, bisect_left(layers, below))
            runs = self._runs_behind[held]
            ranges += (stop - at) * len(runs)
            if stop > at:
                rows_bytes += sum(run.geometry.rows_bytes(at, stop) for run in runs)
            at = stop
        return ranges, rows_bytes


class LayerRun(NamedTuple):
    """One run at one layer: what is read together. `position` is the layer's index within the part."""

    unit: int
    layer: int
    part: int
    position: int
    run: PlanRun

    @property
    def row(self) -> LayerRow:
        return self.run.geometry.rows[self.position]

    def spans(self) -> Iterator[Span]:
        """Chunks counted within the segment."""
        return self.row.spans(self.run.first, self.run.stop)


@dataclass(frozen=True)
class Plan:
    """What to deliver, resolved. Ranges are made on the way: nothing here grows with layers × segments.

    `reason` is why a unit has `layers_per_unit` layers, where that was chosen here (`scheduling.modes`).
    """

    parts: tuple[PlanPart, ...]
    layers_per_unit: int
    from_layer: int
    geometry: DeliveryGeometry
    reason: str = ""

    @classmethod
    def of(cls, parts: Sequence[PlanPart], layers_per_unit: int, from_layer: int = 0, reason: str = "") -> Plan:
        """Raises DescriptorError when `from_layer` leaves nothing."""
        shapes = tuple(part.shape for part in parts)
        geometry = delivery_geometry(shapes, layers_per_unit)
        if from_layer > geometry.order[-1]:
            raise DescriptorError(f"from_layer {from_layer} is beyond the last layer, {geometry.order[-1]}")
        plan = cls(tuple(parts), layers_per_unit, from_layer, geometry, reason)
        if any(shape.held for shape in shapes) and not plan.payload_bytes:
            raise DescriptorError("all that is asked for is held already")
        return plan

    def layer_runs(self) -> Iterator[LayerRun]:
        """In delivery order: by layer, then part, then place in the chain."""
        geometry = self.geometry
        for unit, layers in enumerate(geometry.units):
            for layer in layers:
                if layer < self.from_layer:
                    continue
                for part in geometry.parts_of(layer):
                    position = geometry.position(part, layer)
                    for run in self.parts[part].wanted_runs(layer):
                        yield LayerRun(unit, layer, part, position, run)

    @property
    def versions(self) -> tuple[Versions, ...]:
        """For each part, which segments its chunks are of."""
        return tuple(part.versions for part in self.parts)

    @property
    def segments(self) -> list[str]:
        """Names of all segments, in the order they are first needed."""
        return list(dict.fromkeys(run.segment for part in self.parts for run in part.runs))

    @property
    def segment_bytes(self) -> Mapping[str, int]:
        """The size of each segment as an object, in the same order: whoever opens one need not ask for it."""
        if len(self.parts) == 1:
            return self.parts[0].segment_bytes
        return {name: size for part in self.parts for name, size in part.segment_bytes.items()}

    @cached_property
    def payload_bytes(self) -> int:
        geometry = self.geometry
        if self.from_layer <= geometry.order[0]:
            return sum(geometry.unit_wanted_bytes)
        return sum(
            geometry.wanted_bytes(part, layer)
            for layer in geometry.order
            if layer >= self.from_layer
            for part in geometry.parts_of(layer)
        )

    @property
    def num_layers(self) -> int:
        """Layers to deliver, of all parts."""
        return sum(len(self._positions(part)) for part in self.parts)

    @property
    def num_ranges(self) -> int:
        """Of segments, layer by layer: what is read at once where the store is near."""
        return sum(part.wanted(self.from_layer)[0] for part in self.parts)

    @property
    def read_bytes(self) -> int:
        """The payload, and the digest rows that belong to it."""
        return self.payload_bytes + sum(part.wanted(self.from_layer)[1] for part in self.parts)

    def _positions(self, part: PlanPart) -> range:
        """Of the part's layers that are delivered."""
        layers = part.shape.layers
        return range(bisect_left(layers, self.from_layer), len(layers))

    # -- to a worker ------------------------------------------------------------------------------

    def to_wire(self) -> dict[str, Any]:
        return {
            "layers_per_unit": self.layers_per_unit,
            "from_layer": self.from_layer,
            "parts": [(part.serial, part.packed) for part in self.parts],
        }

    @classmethod
    def from_wire(cls, data: dict[str, Any], known: Recent[int, PlanPart] | None = None) -> Plan:
        """`known` are parts that came before, and are not decoded again."""
        parts = []
        for serial, packed in data["parts"]:
            part = known.get(serial) if known is not None else None
            if part is None:
                part = PlanPart.unpacked(serial, packed)
                if known is not None and serial:
                    known.put(serial, part, len(part.runs))
            parts.append(part)
        return cls.of(parts, data["layers_per_unit"], data["from_layer"])


def plan_part(group: int, shard: int, shape: PartShape, runs: Sequence[Run], serial: int = 0) -> PlanPart:
    """The part that `runs` (consecutive in the chain) make up."""
    planned, at = [], 0
    for run in runs:
        segment = run.segment
        planned.append(
            PlanRun(
                segment.name,
                segment.geometry,
                segment.packed_row_digests,
                segment.leaf,
                run.first,
                run.stop,
                at,
            )
        )
        at += run.stop - run.first
    return PlanPart(group, shard, shape, tuple(planned), serial)


def same_versions(held: Versions, served: Versions) -> bool:
    """Whether the chunks that `held` is about are of the same segments in `served`, which goes on after them."""
    rest = list(reversed(served))
    for chunks, tag in held:
        while chunks:
            left, served_tag = rest.pop() if rest else (0, b"")
            if served_tag != tag:
                return False
            if left > chunks:
                rest.append((left - chunks, tag))
            chunks -= min(chunks, left)
    return True
