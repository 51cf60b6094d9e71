"""The core over one store: what is stored, what matches, what is pinned, what may go. In-process and gateway use it.

Calls may be made from any thread. Reading and sending bytes is not done here.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from objectcache.cache.base import Lease, Match, PartId, UploadTicket, matched_part
from objectcache.cache.eviction import evict
from objectcache.cache.following import FAR, NEAR, Background, Following, Rhythm
from objectcache.cache.leases import DEFAULT_TTL_S, LeaseTable
from objectcache.cache.planning import Planner
from objectcache.cache.reconcile import VANISHED_AFTER_S, Findings, Reconciler
from objectcache.catalog import Catalog, Follower, match
from objectcache.catalog.follower import publish_namespace, read_namespace
from objectcache.commitlog import CommitEntry
from objectcache.descriptor import Descriptor
from objectcache.errors import (
    IntegrityError,
    InvalidObjectNameError,
    NamespaceMismatchError,
    ObjectCacheError,
    ObjectNotFoundError,
    RequestError,
    StoreError,
    StoreFullError,
    UploadNotFoundError,
)
from objectcache.keys import KeyChain, Namespace
from objectcache.names import parse_segment_name
from objectcache.plan import Plan, choose_layers_per_unit
from objectcache.stores import Store, delete_all
from objectcache.verifying import is_damaged

log = logging.getLogger(__name__)

UPLOAD_TTL_S = 600.0
RECORD_BYTES = 4096
"""What a log record takes besides the headers in it, and more."""
ORPHAN_AGE_S = 2 * 3600.0
SNAPSHOT_EVERY_RECORDS = 1024
FAR_SNAPSHOT_EVERY_RECORDS = 256
"""A rebuild replays at most about this many records of the log after the latest snapshot. Far away, the records that
are kept should be one page of a listing."""
SEGMENTS_PER_RECORD = 64
"""Nor is a snapshot written for fewer records than one for so many segments."""
NAMES_PER_RECORD = 1000


@dataclass(slots=True)
class CoreCounters:
    """Since the core was opened."""

    committed: int = 0
    evicted: int = 0
    dropped_full: int = 0
    forgotten: int = 0
    follow_failures: int = 0
    orphans: int = 0
    vanished: int = 0


class Reservation(AbstractContextManager["Reservation"]):
    """Room for an upload, until it is in the store or given up."""

    def __init__(self, core: CacheCore, size_bytes: int) -> None:
        self._core = core
        self._size_bytes = size_bytes

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._core._unreserve(self._size_bytes)


class CacheCore:
    """One store and its catalog. `open` it; `close` it."""

    def __init__(self, store: Store, catalog: Catalog, *, lease_ttl_s: float = DEFAULT_TTL_S) -> None:
        self.store = store
        self.catalog = catalog
        self.counters = CoreCounters()
        self._follower = Follower(store, catalog)
        self._leases = LeaseTable(lease_ttl_s)
        self._namespaces: dict[bytes, Namespace] = {}
        self._written_namespaces: set[bytes] = set()
        self._finished: dict[str, tuple[UploadTicket, float]] = {}
        self._reserved_bytes = 0
        self._records_since_snapshot = 0
        self._lock = threading.Lock()  # leases, namespaces, finished uploads, reservations
        self._writing = threading.RLock()  # whoever appends to the log and applies it
        self._reconciler = Reconciler(store, catalog)
        self._planner = Planner(catalog)
        self._reconciling = threading.Lock()
        self.snapshot_every_records = FAR_SNAPSHOT_EVERY_RECORDS if store.far else SNAPSHOT_EVERY_RECORDS
        self._snapshots = Background("snapshot", self._follow_failed)
        self.on_close: list[Callable[[], None]] = []
        self._closing = False
        self.following = Following(self.follow, self.reconcile, FAR if store.far else NEAR, self._follow_failed)

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
        applied = self._follower.poll()
        with self._lock:
            self._records_since_snapshot += applied
            due = self._records_since_snapshot >= self.snapshot_every_records
        if due and self._is_worth_a_snapshot() and self._snapshots.begin(self._follower.snapshot):
            with self._lock:
                self._records_since_snapshot = 0
        return applied

    def _is_worth_a_snapshot(self) -> bool:
        """Writing it takes as long as there are segments: it is put off while records are few beside them."""
        return self._records_since_snapshot * SEGMENTS_PER_RECORD >= self.catalog.stats().segments

    # -- namespaces -------------------------------------------------------------------------------

    def register(self, namespace: Namespace) -> None:
        """Make a namespace known, readable beside the data. Raises StoreError."""
        self.learn(namespace)
        with self._lock:
            if namespace.digest in self._written_namespaces:
                return
        with self.reserve(len(namespace.to_json())):
            publish_namespace(self.store, namespace)
        with self._lock:
            self._written_namespaces.add(namespace.digest)

    def learn(self, namespace: Namespace) -> None:
        """Know a namespace that this process was given, without writing anything."""
        with self._lock:
            self._namespaces.setdefault(namespace.digest, namespace)

    def namespace(self, digest: bytes) -> Namespace:
        """Raises NamespaceMismatchError when nothing is known of it here."""
        try:
            return self._known(digest)
        except NamespaceMismatchError:
            pass
        try:
            found = read_namespace(self.store, digest)
        except (ObjectNotFoundError, IntegrityError) as error:
            raise NamespaceMismatchError(f"namespace {digest.hex()} is not known here: {error}") from error
        self.learn(found)
        return found

    def _served(self, digest: bytes) -> Namespace:
        """One that something may be stored under. A store that is far away is not asked: that may take seconds."""
        return self._known(digest) if self.store.far else self.namespace(digest)

    def _known(self, digest: bytes) -> Namespace:
        """Without asking the store: the catalog has those of all visible segments. Raises NamespaceMismatchError."""
        with self._lock:
            found = self._namespaces.get(digest)
        if found is None:
            found = self.catalog.namespace(digest)
            if found is None:
                raise NamespaceMismatchError(f"namespace {digest.hex()} is not known here")
            self.learn(found)
        return found

    # -- matching and resolving -------------------------------------------------------------------

    def match(self, namespace_digest: bytes, chain: KeyChain, parts: Sequence[PartId] | None = None) -> Match:
        """The longest prefix that all `parts` (None: all of the layout) hold, under a lease when there is any.

        Raises NamespaceMismatchError for a namespace that nobody has registered, LayoutError for unknown parts.
        """
        namespace = self._served(namespace_digest)
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
        per_unit = choose_layers_per_unit([part.shape for part in matched])
        return Match(namespace, found.tokens, matched, Lease(lease, self._leases.ttl_s, None, per_unit))

    def release(self, lease: bytes) -> None:
        """Give a lease back; harmless when it is gone."""
        with self._lock:
            self._leases.release(lease)

    def plan(self, descriptor: Descriptor) -> Plan:
        """What to send for a descriptor.

        Raises NamespaceMismatchError, DescriptorError, LeaseExpiredError, KeyNotFoundError. Nothing is read.
        """
        namespace = self._served(descriptor.namespace)
        descriptor.check_layout(namespace.layout)
        if descriptor.lease:
            with self._lock:
                self._leases.check(descriptor.lease, time.monotonic())
        return self._planner.plan(descriptor)

    def covers(self, namespace_digest: bytes, part: PartId, leaf: bytes, first: int, stop: int) -> bool:
        """Whether chunks [first, stop) of the chain that ends in `leaf` are all stored."""
        with self.catalog.view() as view:
            try:
                view.resolve(namespace_digest, part.group, part.shard, leaf, first, stop)
            except RequestError:
                return False
        return True

    # -- storing ----------------------------------------------------------------------------------

    def new_segment_name(self) -> str:
        """Never given out twice, not even after a crash."""
        with self._writing:
            return self.catalog.next_segment_name()

    def check_upload_name(self, name: str) -> str:
        """A client's own name for its upload. Raises InvalidObjectNameError, RequestError for a name of this writer."""
        if parse_segment_name(name).writer == self.catalog.writer_id:
            raise RequestError(f"segment names of writer {self.catalog.writer_id} are not for clients")
        return name

    def reserve(self, size_bytes: int) -> Reservation:
        """Room for an upload, made by evicting if need be. Raises StoreFullError, which drops the upload."""
        self.following.use()
        with self._writing:
            usage = self.store.usage()
            if usage.limit_bytes is not None:
                wanted = usage.used_bytes + self._reserved_bytes + size_bytes - usage.limit_bytes
                if wanted > 0:
                    self._make_room(wanted, size_bytes, usage.limit_bytes)
            with self._lock:
                self._reserved_bytes += size_bytes
        return Reservation(self, size_bytes)

    def _make_room(self, wanted_bytes: int, size_bytes: int, limit_bytes: int) -> None:
        if size_bytes > limit_bytes or self.evict(wanted_bytes) < wanted_bytes:
            self.counters.dropped_full += 1
            raise StoreFullError(
                f"{size_bytes} bytes do not fit: the limit is {limit_bytes} bytes and what is stored is pinned"
            )

    def _unreserve(self, size_bytes: int) -> None:
        with self._lock:
            self._reserved_bytes -= size_bytes

    def finished(self, ticket: UploadTicket) -> None:
        """An upload is whole in the store: it may be committed for UPLOAD_TTL_S."""
        now_s = time.monotonic()
        with self._lock:
            self._finished[ticket.header.name] = (ticket, now_s)
            stale = [name for name, (_, since_s) in self._finished.items() if since_s < now_s - UPLOAD_TTL_S]
            for name in stale:
                del self._finished[name]
        self._delete(stale)

    def commit(self, names: Sequence[str], discard: Sequence[str] = ()) -> None:
        """Make uploads visible, all in one record, and drop others. Names that are visible already are fine.

        Raises UploadNotFoundError (then nothing is committed), StoreError.
        """
        names = list(dict.fromkeys(names))
        with self._writing:
            with self._lock:
                tickets = [self._finished.get(name) for name in names]
            entries = []
            for name, found in zip(names, tickets, strict=True):
                if found is not None:
                    entries.append(CommitEntry(found[0].header, found[0].row_digests))
                elif not self._is_visible(name):
                    raise UploadNotFoundError(f"upload {name} was not finished here, was dropped, or has timed out")
            for digest in {entry.header.namespace for entry in entries}:
                self.register(self.namespace(digest))
            if entries:
                sizes = (len(entry.header.encoded) + sum(map(len, entry.row_digests)) for entry in entries)
                with self.reserve(RECORD_BYTES + sum(sizes)):
                    self._follower.append(entries)
                with self._lock:
                    self._records_since_snapshot += 1
                self.counters.committed += len(entries)
        with self._lock:
            for name in names:
                self._finished.pop(name, None)
            # Nothing but uploads: the names are a client's, and log records are objects too.
            dropped = [name for name in discard if self._finished.pop(name, None) is not None]
        self._delete(dropped)

    def _is_visible(self, name: str) -> bool:
        try:
            parse_segment_name(name)
        except InvalidObjectNameError:
            return False
        return self.catalog.segment_named(name) is not None

    # -- forgetting -------------------------------------------------------------------------------

    def reconcile(self, orphan_age_s: float = ORPHAN_AGE_S, vanished_after_s: float = VANISHED_AFTER_S) -> Findings:
        """Delete segments that were uploaded and never committed; forget, in the log, those that are gone from the
        store, as lifecycle rules make them. Returns both. Raises StoreError, CatalogError.

        An upload that is older than `orphan_age_s` by the store's clock is nobody's any more: uploads are committed, or
        forgotten, long before. Reads the whole listing of segments: for a slow rhythm.
        """
        with self._reconciling:
            self.follow()
            findings = self._reconciler.find(
                orphan_age_s=orphan_age_s, vanished_after_s=vanished_after_s, stopped=lambda: self._closing
            )
            with self._lock:
                orphans = [name for name in findings.orphans if name not in self._finished]
            self._delete(orphans)
            self.counters.orphans += len(orphans)
            for at in range(0, len(findings.vanished), NAMES_PER_RECORD):
                self._forget_vanished(tuple(findings.vanished[at : at + NAMES_PER_RECORD]))
        return Findings(orphans, findings.vanished)

    def _forget_vanished(self, names: tuple[str, ...]) -> None:
        log.warning("forgetting %d segments that are gone from the store, the first is %s", len(names), names[0])
        with self._writing:
            self._follower.append(deletes=names)
        self.counters.vanished += len(names)

    def evict(self, wanted_bytes: int) -> int:
        """Remove least recently used segments, leaves before their prefixes, pinned ones not. Bytes freed."""
        with self._lock:
            self._leases.expire(time.monotonic())
            pinned = self._leases.pinned
        with self._writing:
            chosen = evict(self.catalog.eviction_order(pinned), wanted_bytes)
            if chosen:
                self._remove(tuple(segment.name for segment in chosen))
                self.counters.evicted += len(chosen)
        return sum(segment.total_bytes for segment in chosen)

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
        with self._writing:
            if self.catalog.segment_named(name) is None:
                return
            log.warning("forgetting segment %s, which is gone or damaged", name)
            try:
                self._remove((name,))
            except StoreFullError:
                self.catalog.drop(name)  # others find out by themselves
            self.counters.forgotten += 1

    def _remove(self, names: tuple[str, ...]) -> None:
        """Write down that segments go, and delete them. Raises StoreFullError when even that made no room.

        Where there is no room for the record, the other way round: that a segment is gone is found out in any case.
        """
        try:
            self._follower.append(deletes=names)
        except StoreFullError:
            self._delete(names)
            self._follower.append(deletes=names)
        else:
            self._delete(names)

    def _delete(self, names: Sequence[str]) -> None:
        for name, error in delete_all(self.store, names).items():
            log.warning("object %s could not be deleted: %s", name, error)

    def close(self) -> None:
        self._closing = True
        self.following.stop()
        self._snapshots.wait()
        with self._writing:
            self.catalog.close()
        self.store.close()
        for call in self.on_close:
            call()


def all_parts(namespace: Namespace) -> list[PartId]:
    """Every shard of every group of a namespace's layout."""
    return [
        PartId(group, shard) for group, held in enumerate(namespace.layout.groups) for shard in range(len(held.shards))
    ]
