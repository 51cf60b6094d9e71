"""How many bytes processes use of what they share: one number in a file, under a lock that dies with its holder."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from typing import NamedTuple

_FORMAT = struct.Struct("<QQQ")


class Count(NamedTuple):
    """`used_bytes` is never less than what is there; the others only grow, by all that ever comes and goes."""

    used_bytes: int
    added_bytes: int
    removed_bytes: int


class SharedCounter:
    """The counter in the file `path`, made when missing. Thread-safe. Raises OSError.

    A process that is killed between changing the disk and the counter leaves the count too high, never too low: room
    is counted before it is taken, and given back after it has become free. A scan corrects it.
    """

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
        self._lock = Lock()  # flock does not keep the threads of one descriptor apart

    def close(self) -> None:
        """Harmless twice: the number would be another's by then."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def read(self) -> Count | None:
        """None while nobody has counted yet: the file is new."""
        with self._locked():
            return self._read()

    def add(self, size_bytes: int, limit_bytes: int) -> bool:
        """Take room, unless that would pass the limit, or nobody has counted yet."""
        with self._locked():
            count = self._read()
            if count is None or count.used_bytes + size_bytes > limit_bytes:
                return False
            used_bytes, added_bytes, removed_bytes = count
            self._write(Count(used_bytes + size_bytes, added_bytes + size_bytes, removed_bytes))
            return True

    def remove(self, path: str, size_bytes: int) -> bool:
        """Unlink what was counted with `size_bytes`, and give its room back; False when it was gone.

        Both under the lock: a scan sees both or neither.
        """
        with self._locked():
            try:
                os.unlink(path)
            except FileNotFoundError:
                return False
            count = self._read()
            if count is not None:
                used_bytes, added_bytes, removed_bytes = count
                self._write(Count(max(0, used_bytes - size_bytes), added_bytes, removed_bytes + size_bytes))
            return True

    def correct(self, placed_bytes: int, writing_bytes: int, before: Count | None) -> None:
        """A scan that began at the count `before` has seen files of so many bytes, placed and being written.

        What came and went meanwhile may have been seen or not, and what is written may not be counted yet: that leaves
        a lower and an upper bound.
        """
        with self._locked():
            now = self._read()
            if now is None or before is None:
                self._write(Count(placed_bytes + writing_bytes, 0, 0))
                return
            lowest = placed_bytes - (now.removed_bytes - before.removed_bytes)
            highest = placed_bytes + writing_bytes + now.added_bytes - before.added_bytes
            self._write(now._replace(used_bytes=max(lowest, min(now.used_bytes, highest))))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            try:
                yield
            finally:
                with suppress(OSError):
                    fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _read(self) -> Count | None:
        data = os.pread(self._descriptor, _FORMAT.size, 0)
        return Count(*_FORMAT.unpack(data)) if len(data) == _FORMAT.size else None

    def _write(self, count: Count) -> None:
        os.pwrite(self._descriptor, _FORMAT.pack(*count), 0)
