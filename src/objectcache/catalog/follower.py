"""Keeps a catalog up to date with the logs in a store."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from objectcache.catalog.catalog import Catalog
from objectcache.commitlog import CommitEntry, CommitLog, LogRecord, LogTrimmedError, Replacement
from objectcache.errors import (
    CatalogError,
    IntegrityError,
    ObjectExistsError,
    ObjectNotFoundError,
    RequestError,
    StoreError,
)
from objectcache.keys import Namespace
from objectcache.names import namespace_name
from objectcache.snapshot import Snapshot
from objectcache.stores import Store

_log = logging.getLogger(__name__)


class Follower:
    """Follows all logs of `store` into `catalog`, and writes this process's own. May be used from any thread of the
    process that writes the catalog. `log` is the process's own log.
    """

    def __init__(self, store: Store, catalog: Catalog, *, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives Unix time, for recency."""
        self._store = store
        self._catalog = catalog
        self._clock = clock
        self._lock = threading.Lock()
        self._polled = False
        position = catalog.positions().get(catalog.writer_id, 0)
        self.log = CommitLog(store, catalog.writer_id, position=position, clock=clock)

    def poll(self) -> int:
        """Apply what is new; returns how many records that was. Begins with the latest snapshot where the catalog is
        empty, must be built anew, or is so far behind that records it needs were trimmed.

        Raises StoreError, CatalogError.
        """
        with self._lock:
            return self._poll()

    def _poll(self) -> int:
        if self._catalog.damaged or self._begins_with_snapshot():
            self._restore()
        try:
            applied = self._replay()
        except LogTrimmedError as error:
            _log.info("starting over from a snapshot: %s", error)
            self._restore()
            applied = self._replay()
        if applied or not self._polled:
            self._read_namespaces()
        self._polled = True
        return applied

    def _begins_with_snapshot(self) -> bool:
        """Asked once: later, that records were trimmed says so."""
        return not self._polled and not self._catalog.positions() and self.log.latest_snapshot() is not None

    def _replay(self) -> int:
        return self._catalog.apply(self.log.follow(self._catalog.positions()), now_s=self._clock())

    def _restore(self) -> None:
        """Fill the catalog from the most advanced snapshot that can be read; empty it when there is none."""
        self._polled = False
        for snapshot in self.log.usable_snapshots():
            try:
                self._catalog.restore(snapshot, now_s=self._clock())
            except IntegrityError as error:
                self.log.disregard(snapshot.name, error)
            except ObjectNotFoundError as error:
                _log.info("trying another snapshot: %s", error)
            else:
                return
        self._catalog.reset()

    def _read_namespaces(self) -> None:
        """Those that segments belong to and nobody has read yet. A missing one keeps its segments from matching."""
        for digest in self._catalog.unread_namespaces():
            try:
                self._catalog.add_namespace(read_namespace(self._store, digest))
            except (StoreError, IntegrityError) as error:
                _log.warning("namespace %s cannot be read: %s", digest.hex(), error)

    # -- writing ----------------------------------------------------------------------------------

    def append(
        self,
        commits: Sequence[CommitEntry] = (),
        *,
        deletes: Sequence[str] = (),
        replaces: Sequence[Replacement] = (),
    ) -> LogRecord:
        """Write a record to this process's log; it has effect here when this returns. Raises as `CommitLog.append`."""
        seen = self._catalog.positions() if deletes or replaces else None
        record = self.log.append(commits, deletes=deletes, replaces=replaces, seen=seen)
        with self._lock:
            try:
                position = self._catalog.positions().get(record.writer, 0)
                if position == record.sequence - 1:
                    self._catalog.apply([record], now_s=self._clock())
                elif position < record.sequence:  # otherwise a poll was faster
                    self._poll()
            except (StoreError, CatalogError) as error:
                # It is in the log, and that is what counts: the next poll applies it.
                _log.warning("record %d is written, but not applied yet: %s", record.sequence, error)
        return record

    def snapshot(self) -> Snapshot:
        """Write a snapshot of what has been applied here, and trim what that makes superfluous. Raises StoreError,
        LogTrimmedError when somebody else's snapshot got ahead.
        """
        snapshot = self.log.write_snapshot(self._catalog.positions())
        self.log.trim()
        return snapshot


def publish_namespace(store: Store, namespace: Namespace) -> None:
    """Write a namespace down beside the data, readably, before the first segment of it. Raises StoreError."""
    try:
        store.put(namespace_name(namespace.digest), namespace.to_json(), if_absent=True)
    except ObjectExistsError:
        return  # its name is its digest: it is the same


def read_namespace(store: Store, digest: bytes) -> Namespace:
    """The namespace of that digest (32 bytes). Raises IntegrityError when it is another, StoreError."""
    name = namespace_name(digest)
    try:
        namespace = Namespace.from_json(store.get(name))
    except RequestError as error:
        raise IntegrityError(f"{name} is no namespace: {error}") from error
    if namespace.digest != digest:
        raise IntegrityError(f"{name} is another namespace: {namespace.digest.hex()}")
    return namespace
