"""Which room of a worker's registered memory is free: slots of one size, taken and given back."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

SHARE = 8
"""Nobody holds more than this part of the slots: a client that stands still keeps what its WRITEs have."""


class Slots:
    """`count` slots of `slot_bytes`. Thread-safe; the one given back last is taken first, while it is in the cache."""

    def __init__(self, count: int, slot_bytes: int) -> None:
        self.count = count
        self.slot_bytes = slot_bytes
        self.most = max(1, count // SHARE)
        """For one holder."""
        self._free = list(range(count))
        self._held: Counter[Hashable] = Counter()
        self._given = threading.Condition()

    @property
    def taken(self) -> int:
        return self.count - len(self._free)

    @property
    def total_bytes(self) -> int:
        return self.count * self.slot_bytes

    @contextmanager
    def slot(self, holder: Hashable, timeout_s: float) -> Iterator[slice | None]:
        """Bytes of the memory, nobody else's until the end; None when none was given back within `timeout_s`, or
        `holder` had its share all the time."""
        with self._given:
            if not self._given.wait_for(lambda: self._free and self._held[holder] < self.most, timeout_s):
                index = None
            else:
                index = self._free.pop()
                self._held[holder] += 1
        if index is None:
            yield None
            return
        try:
            yield slice(index * self.slot_bytes, (index + 1) * self.slot_bytes)
        finally:
            with self._given:
                self._free.append(index)
                self._held[holder] -= 1
                if not self._held[holder]:
                    del self._held[holder]
                self._given.notify_all()
