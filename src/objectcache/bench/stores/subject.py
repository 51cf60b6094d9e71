"""One store with what is measured on it: a prefix in segments and chunk by chunk, gateways, direct caches."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

import numpy as np

from objectcache.bench.errors import BenchmarkError
from objectcache.bench.gateway import BUCKET, BenchGateway
from objectcache.bench.retrieve.workload import bench_namespace, payload_bytes, random_chain, store_prefix
from objectcache.bench.stores.beside_rados import BesideRados, beside_ways
from objectcache.bench.stores.delaying import DelayingProxy
from objectcache.bench.stores.fetch import Fetch, Way
from objectcache.bench.stores.gets import Gets, Range, chunk_ranges, slice_ranges
from objectcache.bench.stores.retrieving import deleted, retrieve
from objectcache.bench.stores.rows import CEILING, CHUNK_GETS, COLD, DELAYED, DIRECT, HOT, RANGED_GETS
from objectcache.bench.stores.settings import BenchStore, StoresSettings
from objectcache.cache.local import LocalCache
from objectcache.client import ClientOptions, GatewayCache
from objectcache.layout import DeliveryGeometry, PartShape
from objectcache.opening import open_core
from objectcache.stores import ReadCache, child_url, open_store

_CHUNKS = "chunks"


class Subject(AbstractContextManager["Subject"]):
    """Entered, it has stored everything below `store`'s prefix; left, deleted it. Raises ObjectCacheError."""

    def __init__(self, store: BenchStore, settings: StoresSettings, directory: Path) -> None:
        self.store = store
        self._settings = settings
        self._directory = directory
        self._stack = ExitStack()
        layout = settings.shape.layout.shard(0, 0)
        self._layers, self._slice_bytes = len(layout.layers), layout.slice_bytes[0]
        # Of one retrieval: each lands in the same memory, which is warm.
        whole = PartShape(layout.layers, layout.slice_bytes, settings.chunks)
        self._pool_bytes = DeliveryGeometry((whole,), layers_per_unit=1).total_bytes

    @property
    def planned_ways(self) -> list[str]:
        delayed = [DIRECT + DELAYED, COLD + DELAYED] if self.store.can_be_delayed else []
        beside = beside_ways() if self.store.rados else []
        if self._settings.only_rados:
            return beside
        return [CEILING, CHUNK_GETS, RANGED_GETS, DIRECT, COLD, HOT, *delayed, *beside]

    # -- storing ----------------------------------------------------------------------------------

    def __enter__(self) -> Subject:
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _open(self) -> None:
        url = self.store.options.url
        if not self._settings.only_rados:
            self._open_s3(url)
        self._beside: BesideRados | None = None
        if self.store.rados:
            self._beside = self._stack.enter_context(
                BesideRados(url, self.store.rados, self._settings, self._directory)
            )

    def _open_s3(self, url: str) -> None:
        settings = self._settings
        self._stack.enter_context(deleted(url))
        self._buffer = np.zeros(settings.chunks * self._layers * self._slice_bytes, np.uint8)
        self._gets = self._stack.enter_context(Gets(self.store.options, settings.parallel, self._buffer))
        self._ceiling = self._stack.enter_context(Gets(self.store.options, settings.ceiling_parallel, self._buffer))
        self._direct = self._open_direct(child_url(url, BUCKET), "direct")
        namespace = bench_namespace(settings.shape, settings.seed)
        chain = random_chain(namespace, settings.chunks, settings.seed)
        self._prefix = store_prefix(
            self._direct, namespace, chain, settings.segment_chunks, settings.seed, lambda: None
        )
        self._store_chunks()
        # Opened only now: what goes through a gateway stays in its read cache.
        self._gateway, self._cold = self._open_gateway(url, "gateway")

    def _store_chunks(self) -> None:
        """Each chunk with all its layers as one object."""
        chunk_bytes = self._layers * self._slice_bytes
        for header, slices in zip(self._prefix.headers, self._prefix.layers(), strict=True):
            by_chunk = np.stack(slices, axis=1).reshape(header.num_chunks, chunk_bytes)
            self._gets.put_all([(self._chunk_key(header.depth + at), row.tobytes()) for at, row in enumerate(by_chunk)])

    def _chunk_key(self, chunk: int) -> str:
        return self.store.options.key(f"{_CHUNKS}/{chunk:06}")

    @property
    def direct_requests(self) -> int:
        """Of all kinds, by the cache straight on the bucket, since it was opened."""
        return sum(self._direct.request_counts().values())

    # -- opening ----------------------------------------------------------------------------------

    def _open_direct(self, url: str, name: str) -> LocalCache:
        core = open_core(url, state_dir=self._directory / name)
        cache = LocalCache(core, buffer_bytes=self._pool_bytes)
        self._stack.callback(cache.close)
        return cache

    def _open_gateway(self, url: str, name: str) -> tuple[GatewayCache, Callable[[], None]]:
        """A client of a new gateway, and what empties its read cache."""
        read_cache = self._directory / f"{name}-read-cache"
        gateway = self._stack.enter_context(
            BenchGateway(self._directory / name, {"store": url, "cache_dir": str(read_cache)})
        )
        options = ClientOptions(
            access_key=gateway.credentials.access_key,
            secret_key=gateway.credentials.secret_key,
            target="tcp",
            buffer_bytes=self._pool_bytes,
        )
        client = GatewayCache(gateway.host, gateway.port, BUCKET, options)
        self._stack.callback(client.close)
        # The directory is shared with the gateway's processes: what is discarded here is gone for them.
        beside = ReadCache(open_store(child_url(url, BUCKET)), read_cache)
        self._stack.callback(beside.close)

        def empty() -> None:
            for header in self._prefix.headers:
                beside.discard(header.name)
            if beside.cache_usage().used_bytes:
                raise BenchmarkError("the gateway's read cache could not be emptied")

        return client, empty

    # -- measuring --------------------------------------------------------------------------------

    def ways(self) -> dict[str, Way]:
        """By name, in the order in which they are measured."""
        ways = {} if self._settings.only_rados else self._s3_ways()
        if self._beside is not None:
            ways |= self._beside.ways()
        assert list(ways) == self.planned_ways
        return ways

    def _s3_ways(self) -> dict[str, Way]:
        """The hot gateway comes after the cold one, which filled it."""
        prefix = self._prefix
        direct_gets = partial(_count_gets, self._direct)
        keys = [self._chunk_key(chunk) for chunk in range(self._settings.chunks)]
        ways = {
            CEILING: self._of_gets(self._ceiling, self._ceiling_ranges(), chunks_first=None),
            CHUNK_GETS: self._of_gets(
                self._gets, chunk_ranges(keys, self._layers * self._slice_bytes), chunks_first=True
            ),
            RANGED_GETS: self._of_gets(
                self._gets, slice_ranges(keys, range(self._layers), self._slice_bytes), chunks_first=False
            ),
            DIRECT: Way(
                lambda: retrieve(self._direct, prefix, arrived=prefix.check),
                lambda: retrieve(self._direct, prefix, direct_gets),
            ),
            COLD: self._of_gateway(self._gateway, self._cold),
            HOT: self._of_gateway(self._gateway),
        }
        if self.store.can_be_delayed:
            ways |= self._delayed_ways()
        return ways

    def _delayed_ways(self) -> dict[str, Way]:
        options = self.store.options
        where = urlsplit(options.endpoint)
        assert where.hostname is not None
        proxy = self._stack.enter_context(DelayingProxy(where.hostname, where.port or 80, self._settings.delay_s))
        url = options.at(f"http://127.0.0.1:{proxy.port}").url
        direct = self._open_direct(child_url(url, BUCKET), "direct-far")
        client, empty = self._open_gateway(url, "gateway-far")
        return {
            DIRECT + DELAYED: Way(
                lambda: retrieve(direct, self._prefix, arrived=self._prefix.check),
                lambda: retrieve(direct, self._prefix, partial(_count_gets, direct)),
            ),
            COLD + DELAYED: self._of_gateway(client, empty, proxy),
        }

    def _of_gateway(
        self, client: GatewayCache, before: Callable[[], None] = lambda: None, proxy: DelayingProxy | None = None
    ) -> Way:
        def check() -> None:
            before()
            retrieve(client, self._prefix, arrived=self._prefix.check)

        def measure() -> Fetch:
            before()
            return retrieve(client, self._prefix, proxy.count_requests if proxy else None)

        return Way(check, measure)

    def _of_gets(self, gets: Gets, ranges: list[Range], *, chunks_first: bool | None) -> Way:
        def check() -> None:
            self._buffer[:] = 0
            gets.fetch(ranges)
            if chunks_first is not None:
                self._check_buffer(chunks_first)

        return Way(check, lambda: gets.fetch(ranges))

    def _check_buffer(self, chunks_first: bool) -> None:
        """Raises BenchmarkError unless the buffer holds what was stored."""
        chunks = self._settings.chunks
        shape = (chunks, self._layers) if chunks_first else (self._layers, chunks)
        arrived = self._buffer.reshape(*shape, self._slice_bytes)
        for header, slices in zip(self._prefix.headers, self._prefix.layers(), strict=True):
            span = slice(header.depth, header.depth + header.num_chunks)
            for layer, stored in enumerate(slices):
                found = arrived[span, layer] if chunks_first else arrived[layer, span]
                if not np.array_equal(found, stored):
                    raise BenchmarkError(f"what GETs brought of layer {layer} is not what was stored")

    def _ceiling_ranges(self) -> list[Range]:
        """Most of the segments, which are a little longer than the payload."""
        ranges, at = [], 0
        for header in self._prefix.headers:
            key = self.store.below(BUCKET).options.key(header.name)
            for offset in range(0, payload_bytes(header), self._settings.ceiling_bytes):
                length = min(self._settings.ceiling_bytes, payload_bytes(header) - offset)
                ranges.append(Range(key, offset, length, at))
                at += length
        return ranges

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def _count_gets(cache: LocalCache) -> int:
    return cache.request_counts().get("get", 0)
