"""What is measured: one shape's prefix, stored in a gateway of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from objectcache.bench.gateway import BUCKET, BenchGateway
from objectcache.bench.retrieve.settings import RetrieveSettings, Sampled
from objectcache.bench.retrieve.workload import StoredPrefix, bench_namespace, random_chain, store_prefix
from objectcache.client import ClientOptions, GatewayCache
from objectcache.layout import DeliveryGeometry, PartShape

STORING_BYTES = 64 << 20


@dataclass(frozen=True)
class Subject:
    """`prefix` is as long as the longest of `sampled.contexts`."""

    settings: RetrieveSettings
    sampled: Sampled
    gateway: BenchGateway
    prefix: StoredPrefix

    def client(self, *, verify: str) -> GatewayCache:
        """Its pool holds one delivery of the longest context, so that each lands in the same memory."""
        shard = self.sampled.shape.layout.shard(0, 0)
        chunks = self.sampled.shape.chunks(self.sampled.contexts[-1])
        longest = PartShape(shard.layers, shard.slice_bytes, chunks)
        pool_bytes = DeliveryGeometry((longest,), layers_per_unit=1).total_bytes
        return open_client(self.gateway, self.settings, verify=verify, buffer_bytes=pool_bytes)


@contextmanager
def open_subject(
    settings: RetrieveSettings, sampled: Sampled, directory: Path, stored: Callable[[], None]
) -> Iterator[Subject]:
    """`stored()` is called after each segment. Raises ObjectCacheError."""
    with BenchGateway(directory, settings.gateway) as gateway:
        prefix = store(gateway, settings, sampled, sampled.contexts[-1], settings.segment_chunks, settings.seed, stored)
        yield Subject(settings, sampled, gateway, prefix)


def store(
    gateway: BenchGateway,
    settings: RetrieveSettings,
    sampled: Sampled,
    context: int,
    segment_chunks: int,
    seed: int,
    stored: Callable[[], None],
) -> StoredPrefix:
    """A prefix of `context` tokens, other ones with each `seed`, in segments of `segment_chunks`."""
    namespace = bench_namespace(sampled.shape, settings.seed)
    chain = random_chain(namespace, sampled.shape.chunks(context), seed)
    cache = open_client(gateway, settings, verify="all", buffer_bytes=STORING_BYTES)
    try:
        return store_prefix(cache, namespace, chain, segment_chunks, seed, stored)
    finally:
        cache.close()


def open_client(gateway: BenchGateway, settings: RetrieveSettings, *, verify: str, buffer_bytes: int) -> GatewayCache:
    options = ClientOptions(
        access_key=gateway.credentials.access_key,
        secret_key=gateway.credentials.secret_key,
        target=settings.target,
        receiver=settings.receiver,
        streams=settings.streams,
        verify=verify,
        buffer_bytes=buffer_bytes,
    )
    return GatewayCache(gateway.host, gateway.port, BUCKET, options)
