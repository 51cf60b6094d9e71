"""How many bytes a RADOS store holds, where it has a limit: exact for its own changes, scans find those of others."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock, Thread

from objectcache.errors import StoreError
from objectcache.stores.base import UNLIMITED_BYTES, StoreUsage
from objectcache.stores.budget import ByteBudget
from objectcache.stores.rados.entry import BEFORE_NAMES, Entry
from objectcache.stores.rados.index import LAST_PAGE, Index

_log = logging.getLogger(__name__)


class RadosSpace:
    """The budget of what lies below `below` in `index`. Without a limit nothing is counted: that takes a scan.

    Scans run before the first reservation, and then in the background while uploads are begun, at least `rescan_s`
    seconds apart and never for more than a twentieth of the time.
    """

    def __init__(self, index: Index, below: str, limit_bytes: int | None, rescan_s: float) -> None:
        self._index, self._below, self._rescan_s = index, below, rescan_s
        self._counts = limit_bytes is not None and limit_bytes < UNLIMITED_BYTES
        self._budget = ByteBudget(limit_bytes if limit_bytes is not None else UNLIMITED_BYTES)
        self._scanning = Lock()
        self._scanned = False
        self._reached: dict[int, str] | None = None
        """How far a scan that runs has come, by shard."""
        self._found_bytes = 0
        self._held_bytes = 0
        self._next_scan_s = 0.0
        self._thread: Thread | None = None
        self._closing = False

    def reserve(self, count_bytes: int) -> None:
        """Raises StoreFullError, StoreError of the first scan."""
        if self._counts:
            self._scan_if_due()
        self._budget.reserve(count_bytes)

    def settle(self, reserved_bytes: int, delta_bytes: int = 0) -> None:
        with self._budget.lock:
            self._budget.settle(reserved_bytes, delta_bytes if self._counts else 0)
            if self._counts:
                self._held_bytes += delta_bytes

    @contextmanager
    def changing(self) -> Iterator[Callable[[str, int, int], None]]:
        """Around a change of the index. What it gives is called when that is done: (key, bytes more, reservation).

        One change at a time where bytes are counted, so that no scan sees one half.
        """
        if not self._counts:
            yield lambda key, delta_bytes, reserved_bytes: self._budget.settle(reserved_bytes)
            return
        with self._budget.lock:
            yield self._changed

    def _changed(self, key: str, delta_bytes: int, reserved_bytes: int) -> None:
        self.settle(reserved_bytes, delta_bytes)
        if self._reached is not None and key.encode() <= self._reached[self._index.shard_of(key)].encode():
            self._found_bytes += delta_bytes

    def usage(self) -> StoreUsage:
        """Raises StoreError of the first scan."""
        if not self._counts:
            return StoreUsage(0, None)
        if not self._scanned:
            self._first_scan()
        return self._budget.usage()

    def close(self) -> None:
        self._closing = True
        thread = self._thread
        if thread is not None:
            thread.join()

    def _scan_if_due(self) -> None:
        if not self._scanned:
            self._first_scan()
            return
        with self._budget.lock:
            if self._thread is None and not self._closing and time.monotonic() >= self._next_scan_s:
                self._thread = Thread(target=self._rescan, name="objectcache-rados-scan", daemon=True)
                self._thread.start()

    def _first_scan(self) -> None:
        with self._scanning:
            if not self._scanned:
                self._scan_once()

    def _rescan(self) -> None:
        try:
            self._scan()
        except StoreError as error:
            _log.warning("counting %s failed, its usage is kept from own changes: %s", self._below, error)
        finally:
            self._thread = None

    def _scan(self) -> None:
        with self._scanning:
            self._scan_once()

    def _scan_once(self) -> None:
        begin_s = time.monotonic()
        with self._budget.lock:
            self._reached, self._found_bytes = dict.fromkeys(self._index.shards, ""), 0
        try:
            for shard in self._index.shards:
                while not self._closing and self._count_page(shard):
                    pass
            with self._budget.lock:
                self._budget.settle(0, self._found_bytes - self._held_bytes)
                self._held_bytes = self._found_bytes
                self._scanned = True
        finally:
            end_s = time.monotonic()
            self._next_scan_s = end_s + max(self._rescan_s, 20 * (end_s - begin_s))
            self._reached = None

    def _count_page(self, shard: int) -> bool:
        """Whether there are more. Under the lock: a change is in the page, or after it."""
        with self._budget.lock:
            assert self._reached is not None
            after = self._reached[shard] or BEFORE_NAMES
            page = self._index.page(shard, self._below, after)
            more = len(page) >= LAST_PAGE
            self._found_bytes += sum(Entry.decode(key, text).size_bytes for key, text in page)
            self._reached[shard] = page[-1][0] if more else "\U0010ffff" * 1024
            return more
