"""Sections: what of a unit's chunks is told of by itself, as soon as it is verified, before the unit is whole."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from objectcache.layout.stored import align_up, piece_chunks

if TYPE_CHECKING:
    from objectcache.layout.delivered import DeliveryGeometry

CUT_BYTES = 16 << 20
"""Units of fewer bytes are told of once."""
SECTION_BYTES = 4 << 20
"""What a section has at least, unless its part has less: to move one more costs as much as to copy some MiB."""
MAX_SECTIONS = 6
"""Of one part at one layer."""


class Chunks(NamedTuple):
    """Chunks [first, stop) of the part at index `part`, at `layer`."""

    part: int
    layer: int
    first: int
    stop: int

    @property
    def num(self) -> int:
        return self.stop - self.first


class Section(NamedTuple):
    """What is told of as one; `unit` is whole when all of its sections are there, and what is held of it."""

    unit: int
    chunks: tuple[Chunks, ...]


class Sections:
    """All that is sent of a delivery, in sections numbered in delivery order.

    A unit of one layer is cut into up to MAX_SECTIONS for each part, each half of what is left, so that little is to be
    moved on when the last byte lands. A wire of half the speed of the copy behind it, or less, keeps no copy waiting.
    Bounds are those of pieces where these are even. A unit of several layers, or of few bytes, is one section.
    """

    def __init__(self, geometry: DeliveryGeometry) -> None:
        found: list[Section] = []
        of_unit = []
        grid: dict[tuple[int, int], tuple[int, tuple[int, ...]]] = {}
        for unit, layers in enumerate(geometry.units):
            begin = len(found)
            sent = [
                Chunks(part, layer, held, shape.num_chunks)
                for layer in layers
                for part in geometry.parts_of(layer)
                if (held := (shape := geometry.parts[part]).held_chunks(layer)) < shape.num_chunks
            ]
            wanted = sum(geometry.wanted_bytes(each.part, each.layer) for each in sent)
            if len(layers) > 1 or wanted < CUT_BYTES:
                if sent:
                    grid |= {(each.part, each.layer): (begin, (each.stop,)) for each in sent}
                    found.append(Section(unit, tuple(sent)))
            else:
                for each in sent:
                    stops = tuple(_stops(geometry, each))
                    grid[each.part, each.layer] = len(found), stops
                    runs = zip((each.first, *stops), stops, strict=False)
                    found += [Section(unit, (each._replace(first=first, stop=stop),)) for first, stop in runs]
            of_unit.append(range(begin, len(found)))
        self.all: tuple[Section, ...] = tuple(found)
        self.of_unit: tuple[range, ...] = tuple(of_unit)
        """Numbers, by unit; none for a unit of which nothing is sent."""
        self._grid: Mapping[tuple[int, int], tuple[int, tuple[int, ...]]] = grid
        """The number of the first, and where each of them stops."""

    def touched(self, part: int, layer: int, first: int, count: int) -> Sequence[tuple[int, int]]:
        """The sections that `count` chunks from `first` on are of, and how many of them. They must be sent ones."""
        base, stops = self._grid[part, layer]
        at = bisect_right(stops, first)
        stop = first + count
        if stop <= stops[at]:
            return ((base + at, count),)
        touched = []
        while first < stop:
            until = min(stop, stops[at])
            touched.append((base + at, until - first))
            first = until
            at += 1
        return touched

    def wanted_chunks(self, from_layer: int = 0) -> list[int]:
        """By section, how many chunks are sent of layers from `from_layer` on."""
        return list(self.all_chunks) if from_layer <= 0 else self._wanted_chunks(from_layer)

    @cached_property
    def all_chunks(self) -> tuple[int, ...]:
        """By section, how many chunks are sent of it."""
        return tuple(self._wanted_chunks(0))

    def _wanted_chunks(self, from_layer: int) -> list[int]:
        return [sum(each.num for each in section.chunks if each.layer >= from_layer) for section in self.all]


def _stops(geometry: DeliveryGeometry, chunks: Chunks) -> Iterator[int]:
    """Where each section of `chunks` stops."""
    size = geometry.parts[chunks.part].slice_bytes[geometry.position(chunks.part, chunks.layer)]
    at = chunks.first
    for _ in range(MAX_SECTIONS - 1):
        at += align_up((chunks.stop - at + 1) // 2, piece_chunks(size))
        if (chunks.stop - at) * size < SECTION_BYTES:
            break
        yield at
    yield chunks.stop
