"""How many bytes a file store holds: exact for its own changes, corrected by scans for those of other processes."""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from threading import Thread

from objectcache.stores.budget import ByteBudget
from objectcache.stores.file_temporaries import SUFFIX, Temporaries
from objectcache.stores.os_errors import ABSENT

_log = logging.getLogger(__name__)

_DISK_SHARE = 0.8
_TRIES = 3


class _Scan:
    """A scan under way: the directories counted so far, those changed meanwhile but not counted yet, and the sum."""

    def __init__(self) -> None:
        self.counted: set[str] = set()
        self.changed: set[str] = set()
        self.held_bytes = 0

    def add(self, directory: str, held_bytes: int, below: list[str]) -> list[str]:
        """`directory` is counted; `below` is what to go on with."""
        self.counted.add(directory)
        self.held_bytes += held_bytes
        return below


class FileSpace(ByteBudget):
    """The budget of a file store on the directories `objects` and that of `temporaries`.

    `limit_bytes` defaults to 80 % of what is free on the disk and what the store holds, taken together, so that it
    does not grow from one opening to the next. Scans run when opened, and then in the background while uploads are
    begun, at least `rescan_s` seconds apart and never for more than a twentieth of the time.
    """

    def __init__(
        self, objects: str, temporaries: Temporaries, *, limit_bytes: int | None = None, rescan_s: float = 30.0
    ) -> None:
        super().__init__(limit_bytes or 0)
        self._objects, self._temporaries = objects, temporaries
        self._rescan_s = rescan_s
        self._next_scan_s = 0.0
        self._scanning: _Scan | None = None
        self._thread: Thread | None = None
        self._closing = False
        self._scan()
        if limit_bytes is None:
            disk = os.statvfs(objects)
            self.limit_bytes = int(_DISK_SHARE * (disk.f_bavail * disk.f_frsize + self._held_bytes))

    def reserve(self, count_bytes: int) -> None:
        self._rescan_if_due()
        super().reserve(count_bytes)

    def changed(self, directory: str, delta_bytes: int, *, reserved_bytes: int = 0) -> None:
        """What `directory` itself holds has changed. To be called under the hold of `lock` that changed it."""
        self.settle(reserved_bytes, delta_bytes)
        if self._scanning is not None:
            if directory in self._scanning.counted:
                self._scanning.held_bytes += delta_bytes
            else:
                self._scanning.changed.add(directory)

    def close(self) -> None:
        """End a scan that runs."""
        with self.lock:
            self._closing = True
            thread = self._thread
        if thread is not None:
            thread.join()

    def _rescan_if_due(self) -> None:
        with self.lock:
            if self._thread is None and not self._closing and time.monotonic() >= self._next_scan_s:
                self._thread = Thread(target=self._rescan, name="objectcache-file-scan", daemon=True)
                self._thread.start()

    def _rescan(self) -> None:
        try:
            self._scan()
        except OSError as error:
            _log.warning("scanning %s failed, its usage is kept from own changes: %s", self._objects, error)
        finally:
            with self.lock:
                self._thread = None

    def _scan(self) -> None:
        begin_s = time.monotonic()
        others_bytes = self._temporaries.sweep()
        scan = _Scan()
        with self.lock:
            self._scanning = scan
        try:
            pending = [self._objects]
            while pending and not self._closing:
                self._count(pending.pop(), scan, pending)
                if not pending:
                    with self.lock:
                        # Own uploads may have made directories below one that had been read.
                        pending = list(scan.changed - scan.counted)
                        if not pending:
                            self._held_bytes = scan.held_bytes + others_bytes
                            self._scanning = None
        finally:
            end_s = time.monotonic()
            with self.lock:
                self._scanning = None
                self._next_scan_s = end_s + max(self._rescan_s, 20 * (end_s - begin_s))

    def _count(self, directory: str, scan: _Scan, pending: list[str]) -> None:
        """Add one directory to the scan, with no own change seen half: under the lock only where it keeps changing."""
        if directory in scan.counted:
            return
        for _ in range(_TRIES):
            with self.lock:
                scan.changed.discard(directory)
            held_bytes, below = self._read(directory)
            with self.lock:
                if directory not in scan.changed:
                    pending += scan.add(directory, held_bytes, below)
                    return
        with self.lock:
            pending += scan.add(directory, *self._read(directory))

    def _read(self, directory: str) -> tuple[int, list[str]]:
        """Bytes of the files in `directory`, and the directories in it; nothing when it is gone. Raises OSError."""
        held_bytes, below = 0, []
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        below.append(entry.path)
                    elif entry.name.endswith(SUFFIX):
                        held_bytes += self._temporaries.sweep_one(entry.path)
                    else:
                        with suppress(FileNotFoundError):
                            held_bytes += entry.stat(follow_symlinks=False).st_size
        except OSError as error:
            if error.errno not in ABSENT:
                raise
        return held_bytes, below
