"""One store with a prefix in it, and a client for each target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from pathlib import Path
from types import TracebackType

from objectcache.bench.combined.settings import DIRECT, NIXL, CombinedSettings, NamedStore
from objectcache.bench.gateway import BUCKET, BenchGateway
from objectcache.bench.retrieve.over_nixl import environment_of
from objectcache.bench.retrieve.workload import StoredPrefix, bench_namespace, random_chain, store_prefix
from objectcache.bench.stores.fetch import Fetch
from objectcache.bench.stores.retrieving import deleted, retrieve
from objectcache.cache.base import KVCache
from objectcache.cache.local import LocalCache
from objectcache.client import ClientOptions, GatewayCache
from objectcache.layout import DeliveryGeometry, PartShape
from objectcache.opening import open_core
from objectcache.stores import child_url


class Subject(AbstractContextManager["Subject"]):
    """Entered, everything is stored below `store`'s URL and connected; left, deleted. Raises ObjectCacheError."""

    def __init__(self, store: NamedStore, settings: CombinedSettings, directory: Path) -> None:
        self.store = store
        self._settings = settings
        self._directory = directory
        self._stack = ExitStack()
        shard = settings.shape.layout.shard(0, 0)
        whole = PartShape(shard.layers, shard.slice_bytes, settings.chunks)
        # Of one retrieval: each lands in the same memory, which is warm.
        self._pool_bytes = DeliveryGeometry((whole,), layers_per_unit=1).total_bytes
        self._gateways: dict[str, BenchGateway] = {}
        self._prefix: StoredPrefix

    def __enter__(self) -> Subject:
        try:
            if self.store.url:
                self._stack.enter_context(deleted(self.store.url))
                self._prefix = self._stored(self._direct())
            else:
                self._prefix = self._stored(self._client("tcp"))
        except BaseException:
            self._stack.close()
            raise
        return self

    def _stored(self, cache: KVCache) -> StoredPrefix:
        settings = self._settings
        namespace = bench_namespace(settings.shape, settings.seed)
        chain = random_chain(namespace, settings.chunks, settings.seed)
        return store_prefix(cache, namespace, chain, settings.segment_chunks, settings.seed, lambda: None)

    def ways(self) -> dict[str, Callable[[], Fetch]]:
        """By target. Each has brought everything once, which was checked."""
        ways: dict[str, Callable[[], Fetch]] = {}
        for target in self._settings.targets_of(self.store):
            with environment_of(NIXL[target]) if target in NIXL else nullcontext():
                cache = self._to_read() if target == DIRECT else self._client(target)
                retrieve(cache, self._prefix, arrived=self._prefix.check)
            ways[target] = partial(retrieve, cache, self._prefix)
        return ways

    def _to_read(self) -> KVCache:
        """Files that a gateway has are read by none but it: the same ones, once more."""
        cache = self._direct()
        if not self.store.url:
            self._stored(cache)
        return cache

    def _direct(self) -> KVCache:
        state_dir = self._directory / DIRECT
        url = child_url(self.store.url, BUCKET) if self.store.url else f"file://{state_dir}"
        cache = LocalCache(open_core(url, state_dir=state_dir), buffer_bytes=self._pool_bytes)
        self._stack.callback(cache.close)
        return cache

    def _client(self, target: str) -> GatewayCache:
        fabric = NIXL.get(target)
        gateway = self._gateway(fabric.name if fabric else "", fabric.environment if fabric else {})
        options = ClientOptions(
            access_key=gateway.credentials.access_key,
            secret_key=gateway.credentials.secret_key,
            target="nixl" if fabric else target,
            streams=self._settings.streams,
            buffer_bytes=self._pool_bytes,
        )
        client = GatewayCache(gateway.host, gateway.port, BUCKET, options)
        self._stack.callback(client.close)
        return client

    def _gateway(self, name: str, environment: Mapping[str, str]) -> BenchGateway:
        """One for each fabric, which it is told when it starts, and one for the other targets."""
        if name not in self._gateways:
            data, settings = self._directory / "files", {}
            if self.store.url:
                data = self._directory / f"gateway-{name}"
                settings = {"store": self.store.url} | ({} if self.store.cached else {"cache_bytes": "0B"})
            gateway = BenchGateway(data, settings, environment=environment)
            self._gateways[name] = self._stack.enter_context(gateway)
        return self._gateways[name]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
