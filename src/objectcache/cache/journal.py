"""The log of one process, and its catalog, which follows all logs: what is written takes turns."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from objectcache.cache.following import Background
from objectcache.catalog import Catalog, Follower
from objectcache.commitlog import CommitEntry, LogRecord, Replacement
from objectcache.errors import ObjectCacheError, StoreFullError
from objectcache.stores import Store, delete_all

log = logging.getLogger(__name__)

SNAPSHOT_EVERY_RECORDS = 1024
FAR_SNAPSHOT_EVERY_RECORDS = 256
"""A rebuild replays at most about this many records of the log after the latest snapshot. Far away, the records that
are kept should be one page of a listing."""
SEGMENTS_PER_RECORD = 64
"""Nor is a snapshot written for fewer records than one for so many segments."""


class Journal:
    """Calls from any thread. Whoever looks at the catalog to decide what to write holds `writing` meanwhile."""

    def __init__(self, store: Store, catalog: Catalog, on_failure: Callable[[ObjectCacheError], None]) -> None:
        """`on_failure(error)` is told of snapshots that failed."""
        self.writing = threading.RLock()
        self.snapshot_every_records = FAR_SNAPSHOT_EVERY_RECORDS if store.far else SNAPSHOT_EVERY_RECORDS
        self._store, self._catalog = store, catalog
        self._follower = Follower(store, catalog)
        self._lock = threading.Lock()
        self._records_since_snapshot = 0
        self._snapshots = Background("snapshot", on_failure)

    def follow(self) -> int:
        """Bring the catalog up to the logs now; how many records that took. Raises StoreError, CatalogError."""
        applied = self._follower.poll()
        self._count(applied)
        due = self._records_since_snapshot >= self.snapshot_every_records
        if due and self._is_worth_a_snapshot() and self._snapshots.begin(self._follower.snapshot):
            with self._lock:
                self._records_since_snapshot = 0
        return applied

    def _count(self, records: int) -> None:
        with self._lock:
            self._records_since_snapshot += records

    def _is_worth_a_snapshot(self) -> bool:
        """Writing it takes as long as there are segments: it is put off while records are few beside them."""
        return self._records_since_snapshot * SEGMENTS_PER_RECORD >= self._catalog.stats().segments

    def append(
        self,
        commits: Sequence[CommitEntry] = (),
        *,
        deletes: Sequence[str] = (),
        replaces: Sequence[Replacement] = (),
    ) -> LogRecord:
        """Write a record; it has effect here when this returns. Raises as `CommitLog.append`."""
        with self.writing:
            record = self._follower.append(commits, deletes=deletes, replaces=replaces)
        self._count(1)
        return record

    def remove(self, names: tuple[str, ...]) -> None:
        """Write down that segments go, and delete them. Raises StoreFullError when even that made no room.

        Where there is no room for the record, the other way round: that a segment is gone is found out in any case.
        """
        try:
            self.append(deletes=names)
        except StoreFullError:
            self.delete(names)
            self.append(deletes=names)
        else:
            self.delete(names)

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects; what fails is logged, and found again by whoever looks for orphans."""
        for name, error in delete_all(self._store, names).items():
            log.warning("object %s could not be deleted: %s", name, error)

    def close(self) -> None:
        """Return when no snapshot is being written any more, and close the catalog."""
        self._snapshots.wait()
        with self.writing:
            self._catalog.close()
