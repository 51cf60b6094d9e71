"""Which room of a worker's registered memory is free: slots of one size, taken and given back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Slots:
    """`count` slots of `slot_bytes`. Thread-safe; the one given back last is taken first, while it is in the cache."""

    def __init__(self, count: int, slot_bytes: int) -> None:
        self.count = count
        self.slot_bytes = slot_bytes
        self._free = list(range(count))
        self._given = threading.Condition()

    @property
    def taken(self) -> int:
        return self.count - len(self._free)

    @property
    def total_bytes(self) -> int:
        return self.count * self.slot_bytes

    @contextmanager
    def slot(self, timeout_s: float) -> Iterator[slice | None]:
        """Bytes of the memory, nobody else's until the end; None when none was given back within `timeout_s`."""
        with self._given:
            index = self._free.pop() if self._given.wait_for(lambda: self._free, timeout_s) else None
        if index is None:
            yield None
            return
        try:
            yield slice(index * self.slot_bytes, (index + 1) * self.slot_bytes)
        finally:
            with self._given:
                self._free.append(index)
                self._given.notify()
