"""Layers on their way to the storing process and back, in shared memory.

A message for each would have a thread of the engine's process ask for the interpreter lock several times a layer, and
each time costs what computes. So whoever has copied a layer writes it down here, the storing process looks every half
millisecond while it has a store open, and marks what it has read, which is seen when room is needed next.
"""

from __future__ import annotations

import mmap
import os
import threading
from struct import Struct
from typing import NamedTuple

ENTRIES = 1024
_STATE_BYTES = ENTRIES
_RECORD = Struct("<QQQQQQ")
BOARD_BYTES = _STATE_BYTES + ENTRIES * _RECORD.size
_FREE, _READ, _ORDERED, _COPIED = 0, 1, 2, 3


class Order(NamedTuple):
    """A layer of a store: `size_bytes` at `offset` of the staging pool, slices of `slice_bytes` each.

    With an `address` they are still there, in the engine's memory, and to be copied first.
    """

    number: int
    position: int
    offset: int
    size_bytes: int
    slice_bytes: int
    address: int = 0


Fields = tuple[int, int, int, int, int, int]
_ADDRESS = 5


class _Board:
    """States, a byte each, then records. A state is written after its record and read before it, with a lock in
    between: that orders the two on every processor.
    """

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, BOARD_BYTES)
        self._lock = threading.Lock()


class EngineBoard(_Board):
    """The engine's side: gives orders, and learns which have been read. Thread-safe."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("objectcache-board", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, BOARD_BYTES)
        super().__init__(self.fd)
        self._free = list(range(ENTRIES))
        self._waiting: dict[int, Fields] = {}
        self._uncopied: dict[int, Fields] = {}

    def order(self, order: Fields) -> bool:
        """False when there is no place. `order` is an `Order`, or just its fields: a computing thread makes no more."""
        with self._lock:
            if not self._free:
                return False
            entry = self._free.pop()
            _RECORD.pack_into(self._map, _STATE_BYTES + entry * _RECORD.size, *order)
            self._waiting[entry] = order
            if order[_ADDRESS]:
                self._uncopied[entry] = order
        self._map[entry] = _ORDERED
        return True

    def take_copied(self) -> list[tuple[int, int]]:
        """(number, position) of what has been copied from the engine's memory since the last time."""
        if not self._uncopied:
            return []
        with self._lock:
            copied = [entry for entry in self._uncopied if self._map[entry] in (_COPIED, _READ)]
            return [self._uncopied.pop(entry)[:2] for entry in copied]

    def take(self) -> list[tuple[int, int]]:
        """(number, position) of what has been read since the last time."""
        if not self._waiting:
            return []
        with self._lock:
            return [self._take(entry) for entry in list(self._waiting) if self._map[entry] == _READ]

    def forget(self, number: int) -> None:
        """All orders of a store that has ended."""
        with self._lock:
            for entry in [entry for entry, order in self._waiting.items() if order[0] == number]:
                self._take(entry)

    def _take(self, entry: int) -> tuple[int, int]:
        self._map[entry] = _FREE
        self._uncopied.pop(entry, None)
        self._free.append(entry)
        return self._waiting.pop(entry)[:2]

    def close(self) -> None:
        """The other side has it now: this one keeps its mapping."""
        os.close(self.fd)


class ProcessBoard(_Board):
    """The storing process's side. `orders` is for one thread, `read` for any."""

    def orders(self) -> list[tuple[int, Order]]:
        """(entry, order) of all that are given and not read; the same ones again until they are."""
        found = []
        entry = self._map.find(bytes([_ORDERED]), 0, _STATE_BYTES)
        while entry >= 0:
            with self._lock:
                pass
            order = Order(*_RECORD.unpack_from(self._map, _STATE_BYTES + entry * _RECORD.size))
            found.append((entry, order))
            entry = self._map.find(bytes([_ORDERED]), entry + 1, _STATE_BYTES)
        return found

    def copied(self, entry: int) -> None:
        """It lies in staging now."""
        with self._lock:
            self._map[entry] = _COPIED

    def read(self, entry: int) -> None:
        """Its memory is not looked at any more."""
        with self._lock:
            self._map[entry] = _READ
