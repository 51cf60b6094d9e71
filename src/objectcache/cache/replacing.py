"""Segments that give way to others which hold the same chunks: in one step for whoever looks, and later on the disk."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from objectcache.cache.journal import Journal
from objectcache.cache.leases import LeaseTable
from objectcache.cache.superseded import FAR_GRACE_S, GRACE_S, Superseded
from objectcache.catalog import Catalog, SegmentRecord
from objectcache.commitlog import CommitEntry, Replacement
from objectcache.stores import Store

RECORD_BYTES = 4096
"""What a log record takes besides the headers in it, and more."""


def record_bytes(entries: Sequence[CommitEntry]) -> int:
    """Room for a log record that commits `entries`."""
    return RECORD_BYTES + sum(len(entry.header.encoded) + sum(map(len, entry.row_digests)) for entry in entries)


class Replacing:
    """Thread-safe."""

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        journal: Journal,
        leases: LeaseTable,
        lock: threading.Lock,
        reserve: Callable[[int], AbstractContextManager[object]],
    ) -> None:
        """`lock` is that of `leases`. `reserve(size_bytes)` makes room for a log record."""
        self._far = store.far
        self._catalog, self._journal, self._reserve = catalog, journal, reserve
        self._leases, self._lock = leases, lock
        self.superseded = Superseded(FAR_GRACE_S if store.far else GRACE_S)

    def planned(self, deadline_s: float) -> None:
        """A delivery knows its segments by name from now on. Of a store that is near it has them open at once."""
        if self._far:
            with self._lock:
                self.superseded.planned(time.monotonic(), deadline_s)

    def replace(self, entry: CommitEntry, old: Sequence[SegmentRecord]) -> bool:
        """Make an upload visible that holds all the chunks of the segments `old`, which go in the same step.

        Leases on them pin the new one from then on; their objects stay until nobody can need them any more. When one of
        them is gone by now, the upload is deleted instead: what was evicted must not come back, and what somebody else
        has replaced is replaced. Whether it became visible. Raises StoreError; then it may be either.
        """
        with self._journal.writing:
            self._journal.follow()
            with self._reserve(record_bytes([entry])):
                if not self.are_current(old):
                    self._journal.delete([entry.name])
                    return False
                names = tuple(segment.name for segment in old)
                self._journal.append([entry], replaces=[Replacement(names, (entry.name,))])
            new = self._catalog.id_of(entry.name)
            with self._lock:
                if new is not None:
                    self._leases.move([segment.id for segment in old], new)
                self._supersede(old)
        return True

    def drop_duplicates(self, old: Sequence[SegmentRecord]) -> int:
        """Take segments away whose chunks others hold too; how many that were. As with `replace`, their objects stay
        for a while. Raises StoreError.
        """
        with self._journal.writing:
            with self._lock:
                pinned = self._leases.pinned  # who has a lease on one goes on with that one
            current = [segment for segment in old if segment.id not in pinned and self.are_current([segment])]
            if current:
                self._journal.append(deletes=tuple(segment.name for segment in current))
            with self._lock:
                self._supersede(current)
        return len(current)

    def are_current(self, segments: Sequence[SegmentRecord]) -> bool:
        """Whether all of them are visible, as they were found."""
        return all(self._catalog.id_of(segment.name) == segment.id for segment in segments)

    def _supersede(self, old: Sequence[SegmentRecord]) -> None:
        self.superseded.add([(segment.name, segment.total_bytes) for segment in old], time.monotonic())

    def drop_due(self) -> None:
        """Delete the objects that nobody needs any more."""
        with self._lock:
            due = self.superseded.due(time.monotonic())
        self._journal.delete(due)

    def make_room(self, wanted_bytes: int) -> int:
        """Delete objects that no delivery of this process needs, as far as it takes. Bytes freed."""
        with self._lock:
            names, freed = self.superseded.for_room(wanted_bytes, time.monotonic())
        self._journal.delete(names)
        return freed

    @property
    def waiting_bytes(self) -> int:
        """Of objects that were replaced and are not deleted yet."""
        with self._lock:
            return self.superseded.total_bytes

    def due_in_s(self) -> float:
        """Seconds until all that was replaced so far may be deleted."""
        with self._lock:
            return self.superseded.due_in_s(time.monotonic())

    def holds(self, name: str) -> bool:
        """Whether an object waits to be deleted."""
        with self._lock:
            return name in self.superseded
