"""Where the sources of one delivery tell what they have written: the storage side, and the local tier."""

from __future__ import annotations

import threading

from objectcache.cache.destination import Destination
from objectcache.cache.retrieval import Retrieval
from objectcache.errors import ObjectCacheError


class Landing:
    """A unit lands once every source with a share in it says so; the destination is fenced once all are."""

    def __init__(self, retrieval: Retrieval, destination: Destination) -> None:
        geometry = retrieval.geometry
        self.memory = retrieval.memory
        self._retrieval = retrieval
        self._destination = destination
        self._lock = threading.Lock()
        wanted, whole = geometry.unit_wanted_bytes, geometry.unit_bytes
        self._shares = [(sent > 0) + (sent < all_bytes) for sent, all_bytes in zip(wanted, whole, strict=True)]
        self._writers = any(wanted) + (wanted != whole)

    def land(self, unit: int) -> None:
        """A source has its share of `unit` in the memory, verified."""
        with self._lock:
            self._shares[unit] -= 1
            whole = not self._shares[unit]
        if whole:
            self._retrieval.land(unit)

    def fail(self, error: ObjectCacheError) -> None:
        self._retrieval.fail(error)

    def fence(self) -> None:
        """A source writes nothing any more; each says so once."""
        with self._lock:
            self._writers -= 1
            fenced = not self._writers
        if fenced:
            self._destination.fence()
