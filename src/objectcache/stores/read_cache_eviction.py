"""Which extents a read cache holds, and which of them go: one process at a time looks and removes."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Lock, Thread
from typing import NamedTuple

from objectcache.stores.file_temporaries import Temporaries
from objectcache.stores.os_errors import ABSENT
from objectcache.stores.read_cache_counter import SharedCounter

_log = logging.getLogger(__name__)

_KEPT_SHARE = 0.9
"""How much of the limit an eviction leaves: the next one is then some time away."""


class SeenFile(NamedTuple):
    """Sorts by which goes first: the highest rank, and there what was used least recently."""

    keeping: int
    """Minus its rank."""
    used_ns: int
    size_bytes: int
    path: str


class Evictor:
    """Evicts from the extents below `extents`. Thread-safe. Raises OSError.

    `lock` is a file that is locked by whoever evicts or scans. When made, it counts what is there: at once where nobody
    has before, else in the background, since the count is then at most too high.
    """

    def __init__(
        self,
        extents: str,
        lock: str,
        temporaries: str,
        own: Temporaries,
        counter: SharedCounter,
        rank_of: Callable[[str], int],
    ) -> None:
        self._extents, self._temporaries = extents, temporaries
        self._rank_of = rank_of
        self._own, self._counter = own, counter
        self.evicted = 0
        self.rounds = 0
        self._lock = Lock()  # flock does not keep the threads of one descriptor apart
        self._closing = False
        self._descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
        self._thread: Thread | None = None
        if counter.read() is None:
            with self._alone():
                self._scan()
        else:
            self._thread = Thread(target=self._rescan, name="objectcache-extent-scan", daemon=True)
            self._thread.start()

    def close(self) -> None:
        self._closing = True
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def make_room(self, size_bytes: int, limit_bytes: int, rounds: int, rank: int) -> None:
        """Remove what was used least recently, none of a lower rank, unless somebody has since `rounds` was read."""
        with self._alone():
            count = self._counter.read()
            if self.rounds != rounds or count is None:
                return
            # Another process may have evicted; but where the disk is full, the limit says nothing.
            if count.used_bytes + size_bytes <= limit_bytes and self._disk_has(2 * size_bytes):
                return
            self.rounds += 1
            seen = sorted(self._scan())
            used_bytes = (self._counter.read() or count).used_bytes
            excess_bytes = used_bytes - max(0, int(_KEPT_SHARE * min(used_bytes, limit_bytes)) - size_bytes)
            for extent in seen:
                if excess_bytes <= 0 or extent.keeping > -rank:
                    break
                if self._counter.remove(extent.path, extent.size_bytes):
                    self.evicted += 1
                    excess_bytes -= extent.size_bytes
                    with suppress(OSError):  # others are in it
                        os.rmdir(os.path.dirname(extent.path))

    @contextmanager
    def _alone(self, *, wait: bool = True) -> Iterator[None]:
        """One thread of one process. Raises BlockingIOError where it would have to `wait` and must not."""
        with self._lock:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            try:
                yield
            finally:
                with suppress(OSError):
                    fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _disk_has(self, size_bytes: int) -> bool:
        disk = os.statvfs(self._extents)
        return disk.f_bavail * disk.f_frsize > size_bytes and disk.f_favail > 0

    def _rescan(self) -> None:
        try:
            with self._alone(wait=False):
                self._scan()
        except BlockingIOError:
            return  # another process is at it
        except OSError as error:
            _log.warning("scanning the read cache failed, its count is kept: %s", error)

    def _scan(self) -> list[SeenFile]:
        """All extents. Corrects the count, and removes what dead processes were writing."""
        before = self._counter.read()
        self._own.sweep()
        # Temporaries first: one that gets its name meanwhile is then seen at least once.
        writing_bytes = sum(file.size_bytes for file in files_in(self._temporaries))
        seen = []
        for prefix in _directories_in(self._extents):
            for directory in _directories_in(prefix):
                if self._closing:
                    return []
                seen += files_in(directory, self._rank_of)
        self._counter.correct(sum(file.size_bytes for file in seen), writing_bytes, before)
        return seen


def _directories_in(directory: str) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        if error.errno not in ABSENT:
            raise
        return []


def files_in(directory: str, rank_of: Callable[[str], int] = lambda name: 0) -> list[SeenFile]:
    """Nothing when it is gone. Raises OSError."""
    seen = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    stat = entry.stat(follow_symlinks=False)
                    seen.append(SeenFile(-rank_of(entry.name), stat.st_mtime_ns, stat.st_size, entry.path))
    except OSError as error:
        if error.errno not in ABSENT:
            raise
    return seen
