"""How many bytes processes use of what they share: one number in a file, under a lock that dies with its holder."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from typing import NamedTuple

_FORMAT = struct.Struct("<QQ")


class Count(NamedTuple):
    """`used_bytes` is never less than what is there; `added_bytes` only grows, by all that is ever added."""

    used_bytes: int
    added_bytes: int


class SharedCounter:
    """The counter in the file `path`, made when missing. Thread-safe. Raises OSError.

    A process that is killed between changing the disk and the counter leaves the count too high, never too low: room
    is counted before it is taken, and given back after it has become free. A scan corrects it.
    """

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
        self._lock = Lock()  # flock does not keep the threads of one descriptor apart

    def close(self) -> None:
        os.close(self._descriptor)

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
            self._write(Count(count.used_bytes + size_bytes, count.added_bytes + size_bytes))
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
                self._write(Count(max(0, count.used_bytes - size_bytes), count.added_bytes))
            return True

    def correct(self, seen_bytes: int, before: Count | None) -> None:
        """A scan has seen `seen_bytes`; it began when the count was `before`.

        What was added since may have been seen or not, and is counted in any case.
        """
        with self._locked():
            now = self._read() or Count(0, 0)
            added_bytes = now.added_bytes - before.added_bytes if before else 0
            self._write(Count(seen_bytes + added_bytes, now.added_bytes))

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
