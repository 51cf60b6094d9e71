"""The core over one store: what is stored, what matches, what is pinned, what may go. In-process and gateway use it.

Calls may be made from any thread. Reading and sending bytes is not done here.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from objectcache.cache.base import Lease, Match, PartId, UploadTicket, all_parts, matched_part
from objectcache.cache.counters import CoreCounters, MergeCounters, ReadCounters
from objectcache.cache.eviction import evict
from objectcache.cache.finished import FinishedUploads
from objectcache.cache.following import FAR, NEAR, Following, Rhythm
from objectcache.cache.journal import Journal
from objectcache.cache.leases import DEFAULT_TTL_S, LeaseTable
from objectcache.cache.merging.fragments import Fragments
from objectcache.cache.namespaces import NamespaceTable
from objectcache.cache.planning import Planner
from objectcache.cache.reconcile import VANISHED_AFTER_S, Findings, Reconciler
from objectcache.cache.replacing import Replacing, record_bytes
from objectcache.cache.resolving import is_covered, is_visible
from objectcache.cache.room import Reservation, Room
from objectcache.catalog import Catalog, match
from objectcache.commitlog import CommitEntry
from objectcache.descriptor import Descriptor
from objectcache.errors import (
    ObjectCacheError,
    RequestError,
    StoreError,
    StoreFullError,
    UploadNotFoundError,
)
from objectcache.keys import KeyChain, Namespace
from objectcache.names import parse_segment_name
from objectcache.plan import Plan
from objectcache.scheduling.modes import usual_layers
from objectcache.stores import Store
from objectcache.verifying import is_damaged

log = logging.getLogger(__name__)

ORPHAN_AGE_S = 2 * 3600.0


class CacheCore:
    """One store and its catalog. `open` it; `close` it."""

    def __init__(self, store: Store, catalog: Catalog, *, lease_ttl_s: float = DEFAULT_TTL_S) -> None:
        self.store = store
        self.catalog = catalog
        self.counters = CoreCounters()
        self.merges = MergeCounters()
        self.reads = ReadCounters()
        self.following = Following(self.follow, self.reconcile, FAR if store.far else NEAR, self._follow_failed)
        self.journal = Journal(store, catalog, self._follow_failed)
        self.on_close: list[Callable[[], None]] = []
        self._namespaces = NamespaceTable(store, catalog, self.reserve)
        self._room = Room(store, self.evict)
        self._leases = LeaseTable(lease_ttl_s)
        self._finished = FinishedUploads()
        self.fragments = Fragments()
        self._lock = threading.Lock()  # leases, finished uploads
        self.replacing = Replacing(store, catalog, self.journal, self._leases, self._lock, self.reserve)
        self._reconciler = Reconciler(store, catalog)
        self._planner = Planner(catalog)
        self._reconciling = threading.Lock()
        self._closing = False

    @classmethod
    def open(cls, store: Store, catalog_path: Path, *, lease_ttl_s: float = DEFAULT_TTL_S) -> CacheCore:
        """Open, and bring the catalog up to the store's logs. Raises CatalogError, StoreError."""
        core = cls(store, Catalog.open(catalog_path), lease_ttl_s=lease_ttl_s)
        try:
            core.follow()
            core._reconciler.mark()
        except BaseException:
            core.catalog.close()
            raise
        return core

    def start_following(self, rhythm: Rhythm | None = None) -> None:
        """Follow other writers, and tidy up, from threads."""
        if rhythm is not None:
            self.following = Following(self.follow, self.reconcile, rhythm, self._follow_failed)
        self.following.start()

    def _follow_failed(self, error: ObjectCacheError) -> None:
        self.counters.follow_failures += 1
        log.warning("the logs could not be followed: %s", error)

    def follow(self) -> int:
        """Bring the catalog up to the logs now; how many records that took. Raises StoreError, CatalogError."""
        applied = self.journal.follow()
        self.replacing.drop_due()
        return applied

    # -- namespaces -------------------------------------------------------------------------------

    def register(self, namespace: Namespace) -> None:
        """Make a namespace known, readable beside the data. Raises StoreError."""
        self._namespaces.register(namespace)

    def learn(self, namespace: Namespace) -> None:
        """Know a namespace that this process was given, without writing anything."""
        self._namespaces.learn(namespace)

    def namespace(self, digest: bytes) -> Namespace:
        """Raises NamespaceMismatchError when nothing is known of it here."""
        return self._namespaces.find(digest)

    # -- matching and resolving -------------------------------------------------------------------

    def match(self, namespace_digest: bytes, chain: KeyChain, parts: Sequence[PartId] | None = None) -> Match:
        """The longest prefix that all `parts` (None: all of the layout) hold, under a lease when there is any.

        Raises NamespaceMismatchError for a namespace that nobody has registered, LayoutError for unknown parts.
        """
        namespace = self._namespaces.served(namespace_digest)
        wanted = list(parts) if parts is not None else all_parts(namespace)
        found = match(self.catalog, namespace, chain, wanted)
        if not found.tokens:
            return Match(namespace, 0)
        matched = tuple(
            matched_part(namespace, chain, PartId(*part.part), part.first, part.stop) for part in found.parts
        )
        segments = {run.segment.id for part in found.parts for run in part.runs}
        self.catalog.touch(segments, time.time())
        now_s = time.monotonic()
        with self._lock:
            lease = self._leases.grant(segments, now_s)
        for part in found.parts:
            self.fragments.met(part.runs, now_s)
        per_unit = usual_layers([part.shape for part in matched])
        return Match(namespace, found.tokens, matched, Lease(lease, self._leases.ttl_s, None, per_unit))

    def release(self, lease: bytes) -> None:
        """Give a lease back; harmless when it is gone."""
        with self._lock:
            self._leases.release(lease)

    def plan(self, descriptor: Descriptor, rate_bytes_s: float | None = None) -> Plan:
        """What to send for a descriptor, at a rate of `rate_bytes_s` to expect (None: no cap).

        Raises NamespaceMismatchError, DescriptorError, LeaseExpiredError, KeyNotFoundError. Nothing is read.
        """
        namespace = self._namespaces.served(descriptor.namespace)
        descriptor.check_layout(namespace.layout)
        if descriptor.lease:
            with self._lock:
                self._leases.check(descriptor.lease, time.monotonic())
        self.replacing.planned(descriptor.deadline_s)
        return self._planner.plan(descriptor, rate_bytes_s)

    def covers(self, namespace_digest: bytes, part: PartId, leaf: bytes, first: int, stop: int) -> bool:
        """Whether chunks [first, stop) of the chain that ends in `leaf` are all stored."""
        return is_covered(self.catalog, namespace_digest, part, leaf, first, stop)

    # -- storing ----------------------------------------------------------------------------------

    def new_segment_name(self) -> str:
        """Never given out twice, not even after a crash."""
        with self.journal.writing:
            return self.catalog.next_segment_name()

    def check_upload_name(self, name: str) -> str:
        """A client's own name for its upload. Raises InvalidObjectNameError, RequestError for a name of this writer."""
        if parse_segment_name(name).writer == self.catalog.writer_id:
            raise RequestError(f"segment names of writer {self.catalog.writer_id} are not for clients")
        return name

    def reserve(self, size_bytes: int) -> Reservation:
        """Room for an upload, made by evicting if need be. Raises StoreFullError, which drops the upload."""
        self.following.use()
        with self.journal.writing:
            try:
                return self._room.reserve(size_bytes)
            except StoreFullError:
                self.counters.dropped_full += 1
                raise

    def reserve_spare(self, size_bytes: int) -> Reservation:
        """Room that nothing has to be evicted for. Raises StoreFullError."""
        with self.journal.writing:
            return self._room.reserve(size_bytes, may_evict=False)

    def finished(self, ticket: UploadTicket) -> None:
        """An upload is whole in the store: it may be committed for UPLOAD_TTL_S."""
        with self._lock:
            stale = self._finished.add(ticket, time.monotonic())
        self.journal.delete(stale)

    def commit(self, names: Sequence[str], discard: Sequence[str] = ()) -> None:
        """Make uploads visible, all in one record, and drop others. Names that are visible already are fine.

        Raises UploadNotFoundError (then nothing is committed), StoreError.
        """
        names = list(dict.fromkeys(names))
        with self.journal.writing:
            with self._lock:
                tickets = [self._finished.get(name) for name in names]
            entries = []
            for name, found in zip(names, tickets, strict=True):
                if found is not None:
                    entries.append(CommitEntry(found.header, found.row_digests))
                elif not is_visible(self.catalog, name):
                    raise UploadNotFoundError(f"upload {name} was not finished here, was dropped, or has timed out")
            for digest in {entry.header.namespace for entry in entries}:
                self.register(self.namespace(digest))
            if entries:
                with self.reserve(record_bytes(entries)):
                    self.journal.append(entries)
                self.counters.committed += len(entries)
        with self._lock:
            self._finished.drop(names)
            # Nothing but uploads: the names are a client's, and log records are objects too.
            dropped = self._finished.drop(discard)
        self.journal.delete(dropped)

    # -- forgetting -------------------------------------------------------------------------------

    def reconcile(self, orphan_age_s: float = ORPHAN_AGE_S, vanished_after_s: float = VANISHED_AFTER_S) -> Findings:
        """Delete segments that were uploaded and never committed; forget, in the log, those that are gone from the
        store, as lifecycle rules make them. Returns both. Raises StoreError, CatalogError.

        An upload that is older than `orphan_age_s` by the store's clock is nobody's any more: uploads are committed, or
        forgotten, long before. Reads the whole listing of segments: for a slow rhythm.
        """
        with self._reconciling:
            self.follow()
            return self._reconciler.tidy(
                self.journal,
                self.counters,
                orphan_age_s=orphan_age_s,
                vanished_after_s=vanished_after_s,
                stopped=lambda: self._closing,
                is_known=self._is_known,
            )

    def _is_known(self, name: str) -> bool:
        """Whether an object that is in no catalog is somebody's all the same."""
        with self._lock:
            finished = name in self._finished
        return finished or self.replacing.holds(name)

    def evict(self, wanted_bytes: int) -> int:
        """Remove least recently used segments, leaves before their prefixes, pinned ones not. Bytes freed."""
        freed = self.replacing.make_room(wanted_bytes)
        if freed >= wanted_bytes:
            return freed
        with self._lock:
            self._leases.expire(time.monotonic())
            pinned = self._leases.pinned
        with self.journal.writing:
            chosen = evict(self.catalog.eviction_order(pinned), wanted_bytes - freed)
            if chosen:
                self.journal.remove(tuple(segment.name for segment in chosen))
                self.counters.evicted += len(chosen)
        return freed + sum(segment.total_bytes for segment in chosen)

    def suspect(self, name: str) -> None:
        """A segment that was read is not what its digests say: forget it.

        Where a store is far, what was read may be a copy on a disk that fails, and the segment itself be good: it is
        read again first.
        """
        try:
            if self.store.far and not is_damaged(self.store, name):
                return
        except StoreError as error:
            log.warning("segment %s may be damaged, and cannot be read to see: %s", name, error)
            return
        self.forget(name)

    def forget(self, name: str) -> None:
        """A segment turned out to be gone or damaged: it must not match again."""
        with self.journal.writing:
            if self.catalog.segment_named(name) is None:
                return
            log.warning("forgetting segment %s, which is gone or damaged", name)
            try:
                self.journal.remove((name,))
            except StoreFullError:
                self.catalog.drop(name)  # others find out by themselves
            self.counters.forgotten += 1

    def close(self) -> None:
        self._closing = True
        self.following.stop()
        self.journal.close()
        self.store.close()
        for call in self.on_close:
            call()
