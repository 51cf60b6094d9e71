"""The cache in this process, over a store: no gateway, no network."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from objectcache.buffers import BufferPool
from objectcache.cache.base import (
    KVCache,
    Match,
    MatchedPart,
    PartId,
    RetrieveOptions,
    SegmentUpload,
    UploadTicket,
    group_chain,
    select_parts,
)
from objectcache.cache.core import CacheCore
from objectcache.cache.destination import Destination
from objectcache.cache.far_reading import REQUESTS_AT_ONCE, FarReading, Scratch
from objectcache.cache.flights import Flights
from objectcache.cache.reading import NearReading, close_all
from objectcache.cache.requests import FIRST_REQUESTS
from objectcache.cache.retrieval import Retrieval
from objectcache.descriptor import Descriptor, DescriptorPart, Target, TargetKind
from objectcache.errors import (
    KeyNotFoundError,
    ObjectNotFoundError,
)
from objectcache.integrity import Buffer
from objectcache.keys import KeyChain, Namespace
from objectcache.plan import Plan
from objectcache.segment import SegmentHeader, SegmentWriter
from objectcache.stores import ObjectReader, ObjectUpload

DEFAULT_BUFFER_BYTES = 16 << 30
READERS = min(4, os.cpu_count() or 1)
"""For stores that are near: more than there are cores would only take them from the layer that is needed next."""


class LocalCache(KVCache):
    """Everything in this process: matching, reading and writing a store directly."""

    def __init__(self, core: CacheCore, *, buffer_bytes: int = DEFAULT_BUFFER_BYTES) -> None:
        """`buffer_bytes` bounds the destinations of retrievals; memory is taken only as it is written."""
        self.core = core
        self.pool = BufferPool(buffer_bytes)
        self._width = REQUESTS_AT_ONCE if core.store.far else READERS
        self._executor = ThreadPoolExecutor(self._width, thread_name_prefix="read")
        self._scratch = Scratch()
        self._flights = Flights()

    def request_counts(self) -> Mapping[str, int]:
        """Requests made to the store so far, by kind (`get`, `put`, `list`, …); empty where they cost nothing."""
        return self.core.store.request_counts()

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
        selected = select_parts(match, parts)
        plan = self.core.plan(_descriptor(match, selected, wanted))
        readers = self._open(plan)
        try:
            destination = Destination(self.pool, self.pool.allocate(plan.geometry.total_bytes))
        except BaseException:
            close_all(readers)
            raise
        retrieval = Retrieval(
            plan.geometry,
            destination.buffer.view,
            deadline_s=time.perf_counter() + wanted.deadline_s,
            on_close=destination.close,
        )
        keys = [part.keys for part in selected]
        told = {"on_gone": self.core.forget, "on_damage": self.core.suspect}
        reading: NearReading | FarReading
        if self.core.store.far:
            scratch, flights = self._scratch, self._flights
            reading = FarReading(plan, keys, readers, retrieval, destination, scratch=scratch, flights=flights, **told)
        else:
            reading = NearReading(plan, keys, readers, retrieval, destination, **told)
        destination.begin(cancel=reading.cancel)
        reading.start(self._executor, self._width, FIRST_REQUESTS if self.core.store.far else self._width)
        return retrieval

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
        with self.core.reserve(header.total_bytes):  # until the store itself has reserved it
            upload = self.core.store.upload(header.name, size_bytes=header.total_bytes, if_absent=True)
        return LocalUpload(self.core, header, upload)

    def commit(self, tickets: Sequence[UploadTicket], *, discard: Sequence[UploadTicket] = ()) -> None:
        self.core.commit([t.header.name for t in tickets], [t.header.name for t in discard])

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)
        self.core.close()
        self.pool.close()


class LocalUpload(SegmentUpload):
    """Not thread-safe."""

    def __init__(self, core: CacheCore, header: SegmentHeader, upload: ObjectUpload) -> None:
        self.header = header
        self._core = core
        self._upload = upload
        self._writer = SegmentWriter(header, upload.write)

    def write_layer(self, data: Buffer) -> None:
        self._writer.write_layer(data)

    def finish(self) -> UploadTicket:
        row_digests = self._writer.finish()
        self._upload.publish()
        ticket = UploadTicket(self.header, self.header.total_bytes, row_digests)
        self._core.finished(ticket)
        return ticket

    def abort(self) -> None:
        self._upload.abort()


def _descriptor(match: Match, selected: Sequence[MatchedPart], options: RetrieveOptions) -> Descriptor:
    layout = match.namespace.layout
    return Descriptor(
        namespace=match.namespace.digest,
        parts=tuple(DescriptorPart.of(part.part, part.first, part.stop, part.leaf, layout) for part in selected),
        target=Target(TargetKind.HTTP),
        delivery=0,
        layers_per_unit=options.layers_per_unit,
        windows_s=options.windows_s,
        gang=options.gang,
        deadline_s=options.deadline_s,
        lease=match.lease.id if match.lease else b"",
        trace=options.trace,
    )
