"""Room in a store with a byte limit, for uploads that are on their way."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType

from objectcache.errors import StoreFullError
from objectcache.stores import Store


class Reservation(AbstractContextManager["Reservation"]):
    """Room for an upload, until it is in the store or given up."""

    def __init__(self, room: Room, size_bytes: int) -> None:
        self._room = room
        self._size_bytes = size_bytes

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._room.give_back(self._size_bytes)


class Room:
    """What was promised and is not in the store yet. Thread-safe."""

    def __init__(self, store: Store, evict: Callable[[int], int]) -> None:
        """`evict(wanted_bytes)` frees so much, if it can, and returns how much that was."""
        self._store, self._evict = store, evict
        self._lock = threading.Lock()
        self._reserved_bytes = 0

    def reserve(self, size_bytes: int, *, may_evict: bool = True) -> Reservation:
        """Evicts if need be. Its callers take turns, so that no two count on the same room. Raises StoreFullError."""
        usage = self._store.usage()
        if usage.limit_bytes is not None:
            wanted = usage.used_bytes + self._reserved_bytes + size_bytes - usage.limit_bytes
            evicts = may_evict and size_bytes <= usage.limit_bytes
            if wanted > 0 and not (evicts and self._evict(wanted) >= wanted):
                raise StoreFullError(
                    f"{size_bytes} bytes do not fit: the limit is {usage.limit_bytes} bytes and what is stored is "
                    "pinned"
                )
        with self._lock:
            self._reserved_bytes += size_bytes
        return Reservation(self, size_bytes)

    def give_back(self, size_bytes: int) -> None:
        with self._lock:
            self._reserved_bytes -= size_bytes
