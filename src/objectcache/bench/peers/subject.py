"""The same KV in all that is measured, and the ways to read it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from objectcache.bench.gateway import BUCKET, BenchGateway
from objectcache.bench.machine import child_pids, cpu_s
from objectcache.bench.peers.getter import CHUNKS, CLIENTS, SLICES, Getter, chunk_key
from objectcache.bench.peers.held import HeldKV
from objectcache.bench.peers.lmcache import LMCacheReader
from objectcache.bench.peers.measured import Measured
from objectcache.bench.peers.servers import (
    NGINX_BUCKET,
    Nginx,
    Server,
    gateway_server,
    started_nginx,
    started_seaweedfs,
)
from objectcache.bench.peers.settings import PeersSettings
from objectcache.bench.raw_loop import RawLoop
from objectcache.bench.retrieve.workload import StoredPrefix, bench_namespace, random_chain, store_prefix
from objectcache.bench.stores.fetch import Fetch
from objectcache.bench.stores.retrieving import retrieve
from objectcache.cache.directory import OBJECTS
from objectcache.client import ClientOptions, GatewayCache
from objectcache.layout import DeliveryGeometry, PartShape
from objectcache.stores.file_tree import object_path

RAW, OURS, WHOLE, RANGED, LMCACHE = "raw loop", "layerwise", "a GET per chunk", "a ranged GET per slice", "LMCache"


class Way(NamedTuple):
    """`kind` is one of RAW … LMCACHE. `check` reads once and compares every byte; `measure` is timed."""

    name: str
    kind: str
    check: Callable[[], object]
    measure: Callable[[], Measured]


@contextmanager
def open_ways(settings: PeersSettings, directory: Path, begin: Callable[[str], None]) -> Iterator[list[Way]]:
    """All of them, with everything stored, in the order in which they are measured. `begin(stage)` tells what is going
    on. Raises ObjectCacheError; what it started ends with it."""
    with ExitStack() as stack:
        begin("storing: layerwise")
        gateway = stack.enter_context(BenchGateway(directory / "gateway"))
        layout = settings.shape.layout.shard(0, 0)
        held = stack.enter_context(HeldKV(settings.chunks, len(layout.layers), layout.slice_bytes[0]))
        clients = {target: _open_client(gateway, settings, target, stack) for target in settings.targets}
        namespace = bench_namespace(settings.shape, settings.seed)
        chain = random_chain(namespace, settings.chunks, settings.seed)
        storing = next(iter(clients.values()))
        prefix = store_prefix(storing, namespace, chain, settings.segment_chunks, settings.seed, lambda: None)
        held.fill(prefix, settings.sampled_layers)
        getters: list[tuple[Server, Getter]] = []

        def add(server: Server) -> Getter:
            begin(f"storing: {server.name}")
            getter = stack.enter_context(Getter(server, held, settings.parallel, settings.sampled_layers))
            getters.append((server, getter))
            return getter

        nginx = None
        add(gateway_server(gateway)).put()
        if "nginx" in settings.servers:
            nginx = stack.enter_context(started_nginx(directory))
            _link(directory / "gateway" / BUCKET / OBJECTS, nginx, settings.chunks)
            add(nginx.server)
        if "seaweedfs" in settings.servers:
            add(stack.enter_context(started_seaweedfs())).put()
        lmcache = []
        if nginx is not None and settings.lmcache_python is not None:
            begin("storing: LMCache")
            chunks_each = settings.lmcache_tokens // settings.shape.chunk_tokens
            reader = stack.enter_context(LMCacheReader(settings.lmcache_python, nginx, held, chunks_each))
            lmcache = [_of_lmcache(reader, held)]
        yield [
            _raw_loop(gateway, prefix, held, clients, stack),
            *[_ours(target, client, gateway, prefix) for target, client in clients.items()],
            *[
                _of_getter(server, getter, client, what, held)
                for what in (CHUNKS, SLICES)
                for server, getter in getters
                if server.name in settings.servers
                for client in CLIENTS
            ],
            *lmcache,
        ]


def _open_client(gateway: BenchGateway, settings: PeersSettings, target: str, stack: ExitStack) -> GatewayCache:
    """With a pool for one retrieval: each lands in the same memory."""
    layout = settings.shape.layout.shard(0, 0)
    whole = PartShape(layout.layers, layout.slice_bytes, settings.chunks)
    options = ClientOptions(
        access_key=gateway.credentials.access_key,
        secret_key=gateway.credentials.secret_key,
        target=target,
        buffer_bytes=DeliveryGeometry((whole,), layers_per_unit=1).total_bytes,
    )
    client = GatewayCache(gateway.host, gateway.port, BUCKET, options)
    stack.callback(client.close)
    return client


def _link(store: Path, nginx: Nginx, chunks: int) -> None:
    """Chunks are in the page cache once for both."""
    for key in map(chunk_key, range(chunks)):
        path = nginx.root / NGINX_BUCKET / key
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(object_path(str(store / "objects"), key), path)


def _raw_loop(
    gateway: BenchGateway, prefix: StoredPrefix, held: HeldKV, clients: dict[str, GatewayCache], stack: ExitStack
) -> Way:
    """Over the very bytes that a retrieval delivers, in the same order."""
    store = stack.enter_context(gateway.open_store())
    fds = []
    for header in prefix.headers:
        reader = stack.enter_context(store.open(header.name))
        files = stack.enter_context(reader.files(0, header.total_bytes))
        assert files is not None
        fds.append(files[0].descriptor)
    ranges = [
        (fd, header.geometry.slice_offset(layer, 0), header.num_chunks * header.slice_bytes[layer])
        for layer in range(held.layers)
        for fd, header in zip(fds, prefix.headers, strict=True)
    ]
    streams = next(iter(clients.values())).options.streams
    raw = stack.enter_context(RawLoop([ranges], streams, held.memory))

    def measure() -> Measured:
        transfer = raw.run(0)
        fetch = Fetch(transfer.started_s, transfer.seconds, transfer.payload_bytes)
        return Measured(fetch, transfer.sender_cpu_s, transfer.receiver_cpu_s)

    return Way(RAW, RAW, measure, measure)


def _ours(target: str, client: GatewayCache, gateway: BenchGateway, prefix: StoredPrefix) -> Way:
    server = gateway_server(gateway)
    receivers: set[int] = set()

    def check() -> None:
        before = child_pids(os.getpid())
        retrieve(client, prefix, arrived=prefix.check)
        receivers.update(child_pids(os.getpid()) - before)

    def receiver_cpu_s() -> float:
        return time.process_time() + sum(map(cpu_s, receivers))

    def measure() -> Measured:
        server_s, client_s = server.cpu_s(), receiver_cpu_s()
        fetch = retrieve(client, prefix)
        return Measured(fetch, server.cpu_s() - server_s, receiver_cpu_s() - client_s)

    return Way(f"{OURS}, {target}", OURS, check, measure)


def _of_getter(server: Server, getter: Getter, client: str, what: str, held: HeldKV) -> Way:
    measure = partial(getter.get, client, what)
    arrived = held.check_chunks if what == CHUNKS else held.check_layers
    kind = WHOLE if what == CHUNKS else RANGED
    return Way(f"{kind}, {server.name}, {client}", kind, _checked(measure, held, arrived), measure)


def _of_lmcache(reader: LMCacheReader, held: HeldKV) -> Way:
    return Way(
        f"{LMCACHE} {reader.version}, nginx", LMCACHE, _checked(reader.load, held, held.check_chunks), reader.load
    )


def _checked(measure: Callable[[], Measured], held: HeldKV, arrived: Callable[[], None]) -> Callable[[], None]:
    def check() -> None:
        held.clear()
        measure()
        arrived()

    return check


def planned(settings: PeersSettings) -> int:
    """How many ways there will be."""
    lmcache = "nginx" in settings.servers and settings.lmcache_python is not None
    return 1 + len(settings.targets) + 2 * len(settings.servers) * len(CLIENTS) + lmcache
