"""Where the sources of one delivery tell what they have written: the storage side, and the local tier."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from objectcache.cache.ahead import Ahead
from objectcache.cache.destination import Destination
from objectcache.cache.in_place import InPlace
from objectcache.cache.retrieval import Retrieval
from objectcache.errors import ObjectCacheError
from objectcache.layout import Chunks


class Landing:
    """A unit lands once every section of it has, and what is held of it; the destination is fenced once every source
    says so."""

    def __init__(self, retrieval: Retrieval, destination: Destination) -> None:
        geometry = retrieval.geometry
        self.memory = retrieval.memory
        self._geometry = geometry
        self._retrieval = retrieval
        self._destination = destination
        self._lock = threading.Lock()
        wanted, whole = geometry.unit_wanted_bytes, geometry.unit_bytes
        held = [sent < all_bytes for sent, all_bytes in zip(wanted, whole, strict=True)]
        self._missing = [len(numbers) + mine for numbers, mine in zip(geometry.sections.of_unit, held, strict=True)]
        self._writers = any(wanted) + any(held)

    def land_section(self, number: int) -> None:
        """The storage side has that section in the memory, verified."""
        section = self._geometry.sections.all[number]
        self._land(section.unit, section.chunks, 1)

    def land_sent(self, unit: int) -> None:
        """The storage side has all that it sends of `unit` in the memory, verified."""
        sections = self._geometry.sections
        numbers = sections.of_unit[unit]
        self._land(unit, (chunks for number in numbers for chunks in sections.all[number].chunks), len(numbers))

    def land_held(self, unit: int) -> None:
        """The local tier has its share of `unit`, verified."""
        geometry = self._geometry
        held = (
            Chunks(part, layer, 0, geometry.parts[part].held_chunks(layer))
            for layer in geometry.units[unit]
            for part in geometry.parts_of(layer)
        )
        self._land(unit, (chunks for chunks in held if chunks.num), 1)

    def _land(self, unit: int, chunks: Iterable[Chunks], shares: int) -> None:
        with self._lock:
            self._missing[unit] -= shares
            whole = not self._missing[unit]
        self._retrieval.land_chunks(unit, chunks, whole=whole)

    def read_in_place(self, in_place: InPlace, ahead: Ahead | None) -> None:
        """What is in there is not in the memory, and `ahead` has some of it. Before it lands."""
        self._retrieval.read_in_place(in_place, ahead)

    def fail(self, error: ObjectCacheError) -> None:
        self._retrieval.fail(error)

    def fence(self) -> None:
        """A source writes nothing any more; each says so once."""
        with self._lock:
            self._writers -= 1
            fenced = not self._writers
        if fenced:
            self._destination.fence()
