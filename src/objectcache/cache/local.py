"""The cache in this process, over a store: no gateway, no network."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from objectcache.buffers import BufferPool
from objectcache.cache.base import (
    ForeignUpload,
    KVCache,
    Match,
    PartId,
    RetrieveOptions,
    SegmentUpload,
    UploadTicket,
    group_chain,
    select_parts,
)
from objectcache.cache.core import CacheCore
from objectcache.cache.counters import MergeCounters, ReadCounters
from objectcache.cache.destination import Destination
from objectcache.cache.far_reading import REQUESTS_AT_ONCE, FarReading, Scratch
from objectcache.cache.flights import Flights
from objectcache.cache.landing import Landing
from objectcache.cache.merging.background import BackgroundMerging
from objectcache.cache.reading import NearReading, close_all
from objectcache.cache.requests import FIRST_REQUESTS
from objectcache.cache.retrieval import Retrieval
from objectcache.cache.tiering import TieredDelivery, Tiering
from objectcache.descriptor import Descriptor, Target, TargetKind
from objectcache.errors import (
    HeldVersionError,
    KeyNotFoundError,
    ObjectCacheError,
    ObjectNotFoundError,
)
from objectcache.integrity import Buffer
from objectcache.keys import KeyChain, Namespace
from objectcache.layout import delivery_geometry
from objectcache.plan import Plan
from objectcache.scheduling.modes import usual_layers
from objectcache.segment import SegmentHeader, SegmentWriter
from objectcache.stores import ObjectReader, ObjectUpload

DEFAULT_BUFFER_BYTES = 16 << 30
READERS = min(4, os.cpu_count() or 1)
"""For stores that are near: more than there are cores would only take them from the layer that is needed next."""


class LocalCache(KVCache):
    """Everything in this process: matching, reading and writing a store directly."""

    def __init__(
        self,
        core: CacheCore,
        *,
        buffer_bytes: int = DEFAULT_BUFFER_BYTES,
        tiering: Tiering | None = None,
        merge_bytes_s: float = 0.0,
    ) -> None:
        """`buffer_bytes` bounds the destinations of retrievals; memory is taken only as it is written. `tiering` is
        closed with the cache. A thread merges small segments, `merge_bytes_s` at most; 0: none does.
        """
        self.core = core
        self.tiering = tiering
        self.pool = BufferPool(buffer_bytes)
        self._width = REQUESTS_AT_ONCE if core.store.far else READERS
        self._executor = ThreadPoolExecutor(self._width, thread_name_prefix="read")
        self._scratch = Scratch()
        self._flights = Flights()
        core.reads.measured = core.store.far
        self._merging: BackgroundMerging | None = None
        if merge_bytes_s:
            self._merging = BackgroundMerging(core, merge_bytes_s, is_busy=lambda: bool(self.pool.usage().in_use_bytes))

    def request_counts(self) -> Mapping[str, int]:
        """Requests made to the store so far, by kind (`get`, `put`, `list`, …); empty where they cost nothing."""
        return self.core.store.request_counts()

    @property
    def reads(self) -> ReadCounters:
        """What retrievals took so far: ranges a layer, and bytes read for each byte delivered."""
        return self.core.reads

    @property
    def merges(self) -> MergeCounters:
        """What was merged so far by this process."""
        return self.core.merges

    def match(self, namespace: Namespace, chain: KeyChain, *, parts: Sequence[PartId] | None = None) -> Match:
        self.core.learn(namespace)
        self.core.following.catch_up()
        return self.core.match(namespace.digest, chain, parts)

    def release(self, match: Match) -> None:
        if match.lease is not None:
            self.core.release(match.lease.id)

    def retrieve(
        self, match: Match, *, parts: Sequence[PartId] | None = None, options: RetrieveOptions | None = None
    ) -> Retrieval:
        wanted = options or RetrieveOptions()
        delivery = TieredDelivery(self.tiering, match.namespace, select_parts(match, parts))
        readers: dict[str, ObjectReader] = {}
        try:
            plan = self._plan(match, delivery, wanted)
            if plan is not None:
                delivery.versions = plan.versions
                readers = self._open(plan)
            shapes = tuple(part.shape for part in delivery.parts)
            geometry = (
                plan.geometry if plan else delivery_geometry(shapes, wanted.layers_per_unit or usual_layers(shapes))
            )
            destination = Destination(self.pool, self.pool.allocate(geometry.total_bytes))
        except BaseException:
            close_all(readers)
            delivery.drop()
            raise
        retrieval = Retrieval(
            geometry,
            destination.buffer.view,
            deadline_s=time.perf_counter() + wanted.deadline_s,
            on_close=delivery.closer(geometry, self.pool, destination),
        )
        retrieval.reason = plan.reason if plan else ""
        landing = Landing(retrieval, destination)
        if plan is None:
            destination.begin(cancel=delivery.cancel)
            delivery.read(geometry, landing)
            return retrieval
        keys = [part.keys for part in delivery.parts]
        told = {"on_gone": self.core.forget, "on_damage": self.core.suspect}
        reading: NearReading | FarReading
        if self.core.store.far:
            reading = FarReading(
                plan,
                keys,
                readers,
                landing,
                scratch=self._scratch,
                flights=self._flights,
                on_read=self.core.reads.read,
                **told,
            )
        else:
            reading = NearReading(plan, keys, readers, landing, **told)

        destination.begin(cancel=reading.cancel)
        reading.start(self._executor, self._width, FIRST_REQUESTS if self.core.store.far else self._width)
        delivery.read(geometry, landing)
        return retrieval

    def _plan(self, match: Match, delivery: TieredDelivery, options: RetrieveOptions) -> Plan | None:
        """What the store is asked for; None when all of it is held."""
        if delivery.all_held:
            return None
        try:
            plan = self.core.plan(_descriptor(match, delivery, options))
        except HeldVersionError:
            delivery.give_up()
            plan = self.core.plan(_descriptor(match, delivery, options))
        self.core.reads.planned(plan)
        return plan

    def _open(self, plan: Plan) -> dict[str, ObjectReader]:
        """Every segment, open: a deletion from here on does not hurt, unless the store is far away."""
        readers: dict[str, ObjectReader] = {}
        for name, size_bytes in plan.segment_bytes.items():
            try:
                readers[name] = self.core.store.open(name, size_bytes=size_bytes)
            except ObjectNotFoundError as error:
                close_all(readers)
                self.core.forget(name)
                raise KeyNotFoundError(f"segment {name} is gone from the store") from error
            except BaseException:
                close_all(readers)
                raise
        return readers

    def store(
        self, namespace: Namespace, chain: KeyChain, part: PartId, *, first: int = 0, stop: int | None = None
    ) -> SegmentUpload | None:
        header = self._begin(namespace, chain, part, first, stop)
        if header is None:
            return None
        with self.core.reserve(header.total_bytes):  # until the store itself has reserved it
            upload = self.core.store.upload(header.name, size_bytes=header.total_bytes, if_absent=True)
        return LocalUpload(header, upload, self.core.finished)

    @property
    def stores_elsewhere(self) -> bool:  # type: ignore[override]
        return not self.core.store.url.startswith("memory:")

    def store_elsewhere(
        self, namespace: Namespace, chain: KeyChain, part: PartId, *, first: int = 0, stop: int | None = None
    ) -> ForeignUpload | None:
        if not self.stores_elsewhere:
            return super().store_elsewhere(namespace, chain, part, first=first, stop=stop)
        header = self._begin(namespace, chain, part, first, stop)
        return None if header is None else _StoreElsewhere(self.core, header)

    def _begin(
        self, namespace: Namespace, chain: KeyChain, part: PartId, first: int, stop: int | None
    ) -> SegmentHeader | None:
        """What to upload; None when all of it is there."""
        keys = group_chain(namespace, chain, part.group)
        header = SegmentHeader.for_layout(
            namespace.layout,
            name=self.core.new_segment_name(),
            namespace=namespace.digest,
            group=part.group,
            shard=part.shard,
            chain=keys,
            first=first,
            stop=len(keys) if stop is None else stop,
        )
        if self.core.covers(namespace.digest, part, header.leaf, first, first + header.num_chunks):
            return None
        self.core.register(namespace)
        return header

    def commit(self, tickets: Sequence[UploadTicket], *, discard: Sequence[UploadTicket] = ()) -> None:
        self.core.commit([t.header.name for t in tickets], [t.header.name for t in discard])

    def register_buffers(self, registrar: Callable[[int, int], Callable[[], None]]) -> None:
        self.pool.register(registrar)
        if self.tiering is not None:
            self.tiering.register(registrar)

    def close(self) -> None:
        if self._merging is not None:
            self._merging.stop()
        self._flights.close()
        self._executor.shutdown(wait=True, cancel_futures=True)
        if self.tiering is not None:
            self.tiering.close()
        self.core.close()
        self.pool.close()


class LocalUpload(SegmentUpload):
    """Into a store of this process. `finished` is told of the ticket. Not thread-safe."""

    def __init__(self, header: SegmentHeader, upload: ObjectUpload, finished: Callable[[UploadTicket], None]) -> None:
        self.header = header
        self._upload = upload
        self._finished = finished
        self._writer = SegmentWriter(header, upload.write)

    def write_layer(self, data: Buffer) -> None:
        self._writer.write_layer(data)

    def finish(self) -> UploadTicket:
        row_digests = self._writer.finish()
        self._upload.publish()
        ticket = UploadTicket(self.header, self.header.total_bytes, row_digests)
        self._finished(ticket)
        return ticket

    def abort(self) -> None:
        self._upload.abort()


class _StoreElsewhere(ForeignUpload):
    """Another process opens the store too; room is reserved here meanwhile."""

    def __init__(self, core: CacheCore, header: SegmentHeader) -> None:
        self.header = header
        self.recipe = {"kind": "store", "url": core.store.url, "header": header.encoded}
        self._core = core
        self._room = ExitStack()
        self._room.enter_context(core.reserve(header.total_bytes))

    def finished(self, row_digests: Sequence[bytes]) -> UploadTicket:
        ticket = UploadTicket(self.header, self.header.total_bytes, tuple(row_digests))
        self._core.store.account(ticket.total_bytes)
        self._core.finished(ticket)
        return ticket

    def close(self, error: ObjectCacheError | None = None) -> None:
        self._room.close()


def _descriptor(match: Match, delivery: TieredDelivery, options: RetrieveOptions) -> Descriptor:
    return Descriptor(
        namespace=match.namespace.digest,
        parts=tuple(delivery.describe(part) for part in delivery.parts),
        target=Target(TargetKind.HTTP),
        delivery=0,
        layers_per_unit=options.layers_per_unit,
        windows_s=options.windows_s,
        gang=options.gang,
        deadline_s=options.deadline_s,
        lease=match.lease.id if match.lease else b"",
        trace=options.trace,
    )
