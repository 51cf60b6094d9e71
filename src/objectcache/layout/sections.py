"""Sections: what of a unit's chunks is told of by itself, as soon as it is verified, before the unit is whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from objectcache.layout.stored import align_up, piece_chunks

if TYPE_CHECKING:
    from objectcache.layout.delivered import DeliveryGeometry

SECTION_BYTES = 8 << 20
"""What a section has at least, so that small layers are told of once."""
MAX_SECTIONS = 4
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

    A unit of one layer is cut into up to MAX_SECTIONS for each part, at the bounds of pieces where those are even; a
    unit of several layers, or of few bytes, is one section.
    """

    def __init__(self, geometry: DeliveryGeometry) -> None:
        found: list[Section] = []
        of_unit = []
        grid: dict[tuple[int, int], tuple[int, int, int]] = {}
        for unit, layers in enumerate(geometry.units):
            begin = len(found)
            sent = [
                Chunks(part, layer, held, shape.num_chunks)
                for layer in layers
                for part in geometry.parts_of(layer)
                if (held := (shape := geometry.parts[part]).held_chunks(layer)) < shape.num_chunks
            ]
            wanted = sum(geometry.wanted_bytes(each.part, each.layer) for each in sent)
            if len(layers) > 1 or wanted < 2 * SECTION_BYTES:
                if sent:
                    grid |= {(each.part, each.layer): (begin, each.first, each.num) for each in sent}
                    found.append(Section(unit, tuple(sent)))
            else:
                for each in sent:
                    step = _step(geometry, each)
                    grid[each.part, each.layer] = len(found), each.first, step
                    cuts = range(each.first, each.stop, step)
                    found += [Section(unit, (each._replace(first=at, stop=min(at + step, each.stop)),)) for at in cuts]
            of_unit.append(range(begin, len(found)))
        self.all: tuple[Section, ...] = tuple(found)
        self.of_unit: tuple[range, ...] = tuple(of_unit)
        """Numbers, by unit; none for a unit of which nothing is sent."""
        self._grid: Mapping[tuple[int, int], tuple[int, int, int]] = grid

    def touched(self, part: int, layer: int, first: int, count: int) -> Iterator[tuple[int, int]]:
        """The sections that `count` chunks from `first` on are of, and how many of them. They must be sent ones."""
        base, begin, step = self._grid[part, layer]
        at, stop = first - begin, first - begin + count
        while at < stop:
            number = at // step
            until = min(stop, (number + 1) * step)
            yield base + number, until - at
            at = until

    def wanted_chunks(self, from_layer: int = 0) -> list[int]:
        """By section, how many chunks are sent of layers from `from_layer` on."""
        return [sum(each.num for each in section.chunks if each.layer >= from_layer) for section in self.all]


def _step(geometry: DeliveryGeometry, chunks: Chunks) -> int:
    """Chunks a section."""
    size = geometry.parts[chunks.part].slice_bytes[geometry.position(chunks.part, chunks.layer)]
    cuts = max(1, min(MAX_SECTIONS, chunks.num * size // SECTION_BYTES))
    return align_up(-(-chunks.num // cuts), min(piece_chunks(size), chunks.num))
