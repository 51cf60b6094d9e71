"""The same cluster by RADOS and by its S3 gateway: gateways without a read cache, on long and short prefixes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType

from objectcache.bench.gateway import BUCKET, BenchGateway
from objectcache.bench.retrieve.workload import StoredPrefix, bench_namespace, random_chain, store_prefix
from objectcache.bench.stores.fetch import Fetch, Way
from objectcache.bench.stores.retrieving import deleted, retrieve
from objectcache.bench.stores.rows import ON_RADOS, SHORT, UNCACHED
from objectcache.bench.stores.settings import StoresSettings
from objectcache.cache.local import LocalCache
from objectcache.client import ClientOptions, GatewayCache
from objectcache.layout import DeliveryGeometry, PartShape
from objectcache.opening import open_core
from objectcache.stores import child_url

_BELOW = "uncached"


def beside_ways() -> list[str]:
    return [UNCACHED + length + on for length in ("", *SHORT.values()) for on in ("", ON_RADOS)]


class BesideRados(AbstractContextManager["BesideRados"]):
    """Entered, both hold the same; left, nothing. Raises ObjectCacheError."""

    def __init__(self, s3_url: str, rados_url: str, settings: StoresSettings, directory: Path) -> None:
        self._urls = {"": child_url(s3_url, _BELOW), ON_RADOS: child_url(rados_url, _BELOW)}
        self._settings, self._directory = settings, directory
        self._stack = ExitStack()
        layout = settings.shape.layout.shard(0, 0)
        whole = PartShape(layout.layers, layout.slice_bytes, settings.chunks)
        self._pool_bytes = DeliveryGeometry((whole,), layers_per_unit=1).total_bytes
        self._clients: dict[str, GatewayCache] = {}
        self._prefixes: dict[str, StoredPrefix] = {}

    def __enter__(self) -> BesideRados:
        try:
            for number, (on, url) in enumerate(self._urls.items()):
                self._stack.enter_context(deleted(url))
                self._store(url, self._directory / f"beside-{number}")
                self._clients[on] = self._open(url, self._directory / f"uncached-{number}")
        except BaseException:
            self._stack.close()
            raise
        return self

    def _store(self, url: str, state_dir: Path) -> None:
        settings = self._settings
        core = open_core(child_url(url, BUCKET), state_dir=state_dir)
        cache = LocalCache(core, buffer_bytes=self._pool_bytes)
        try:
            namespace = bench_namespace(settings.shape, settings.seed)
            lengths = [(settings.chunks, ""), *SHORT.items()]
            for number, (chunks, length) in enumerate(lengths):
                seed = settings.seed + 1 + number
                chain = random_chain(namespace, chunks, seed)
                self._prefixes[length] = store_prefix(
                    cache, namespace, chain, settings.segment_chunks, seed, lambda: None
                )
        finally:
            cache.close()

    def _open(self, url: str, data: Path) -> GatewayCache:
        gateway = self._stack.enter_context(BenchGateway(data, {"store": url, "cache_bytes": "0B"}))
        options = ClientOptions(
            access_key=gateway.credentials.access_key,
            secret_key=gateway.credentials.secret_key,
            target="tcp",
            buffer_bytes=self._pool_bytes,
        )
        client = GatewayCache(gateway.host, gateway.port, BUCKET, options)
        self._stack.callback(client.close)
        return client

    def ways(self) -> dict[str, Way]:
        """By name, each right after what it is compared with."""
        return {
            UNCACHED + length + on: Way(partial(_checked, client, prefix), _measured(client, prefix))
            for length, prefix in self._prefixes.items()
            for on, client in self._clients.items()
        }

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def _checked(client: GatewayCache, prefix: StoredPrefix) -> None:
    retrieve(client, prefix, arrived=prefix.check)


def _measured(client: GatewayCache, prefix: StoredPrefix) -> Callable[[], Fetch]:
    return lambda: retrieve(client, prefix)
