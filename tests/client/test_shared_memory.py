"""Memory that a gateway's worker writes: whatever stops or dies, it is used again only when nobody can write it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from objectcache.cache import KVCache, Match, PartId, RetrieveOptions
from objectcache.cache.base import matched_part
from objectcache.client import GatewayCache
from objectcache.errors import (
    BufferPoolExhaustedError,
    ConfigError,
    DeliveryTimeoutError,
    GatewayUnavailableError,
    IntegrityError,
    KeyNotFoundError,
    SharedMemoryRefusedError,
)
from objectcache.testing.synthetic import (
    check_delivery,
    flat_layout,
    new_namespace,
    prompt,
    retrieve_and_check,
    store_parts,
)
from tests.client.stopping import stopped_in_mid_delivery
from tests.gateway.fixtures import StartGateway
from tests.gateway.process import GatewayProcess, eventually

LAYERS, CHUNKS, SLICE_BYTES = 24, 32, 128 << 10
LAYOUT = flat_layout(LAYERS, SLICE_BYTES)
PAYLOAD_BYTES = LAYERS * CHUNKS * SLICE_BYTES  # 96 MiB: a worker cannot have copied it all before it is stopped


@pytest.fixture
def cache(gateway: GatewayProcess) -> Iterator[GatewayCache]:
    """Its pool holds just one delivery."""
    with open_cache(gateway) as opened:
        yield opened


def open_cache(gateway: GatewayProcess) -> GatewayCache:
    opened = gateway.open(target="shm", streams=2, buffer_bytes=PAYLOAD_BYTES, fence_s=0.3)
    assert isinstance(opened, GatewayCache)
    return opened


@pytest.fixture
def match(cache: GatewayCache) -> Match:
    return warm(cache)


def warm(cache: GatewayCache) -> Match:
    """After a first delivery: the memory is shared."""
    namespace = new_namespace(LAYOUT)
    store_parts(cache, namespace, prompt(namespace, CHUNKS))
    found = retrieve_and_check(cache, namespace, prompt(namespace, CHUNKS))
    assert kind_of(cache) == "shm"
    return found


def kind_of(cache: KVCache) -> str:
    """Of the session that is open."""
    assert isinstance(cache, GatewayCache)
    assert cache._session is not None
    return cache._session.kind


def is_free(cache: GatewayCache) -> bool:
    usage = cache.pool.usage()
    return not usage.in_use_bytes and not usage.quarantined_bytes


def mappings_of_memory(pid: int) -> int:
    """Of clients' memory, in a worker."""
    return Path(f"/proc/{pid}/maps").read_text().count("memfd:objectcache-buffers")


# -- a worker that stops or dies --------------------------------------------------------------------


def abandoned(cache: GatewayCache, match: Match) -> None:
    """A delivery whose worker is stopped is given up: its memory stays in quarantine."""
    retrieval = cache.retrieve(match, options=RetrieveOptions(layers_per_unit=1, deadline_s=0.5))
    with pytest.raises(DeliveryTimeoutError):
        retrieval.wait(LAYERS - 1)
    retrieval.close()
    time.sleep(1.5)  # longer than all that a fence waits for
    assert cache.pool.usage().quarantined_bytes == PAYLOAD_BYTES
    with pytest.raises(BufferPoolExhaustedError):
        cache.pool.allocate(1)


def fill(cache: GatewayCache) -> tuple[memoryview, bytes]:
    """All of the pool's memory, with new content."""
    content = bytes(range(256)) * (PAYLOAD_BYTES // 256)
    view = cache.pool.allocate(PAYLOAD_BYTES).view
    view[:] = content
    return view, content


def test_a_worker_that_stops_in_mid_delivery_keeps_the_memory_until_it_goes_on(
    gateway: GatewayProcess, cache: GatewayCache, match: Match
) -> None:
    (worker,) = gateway.worker_pids
    with stopped_in_mid_delivery(worker, cache, match) as retrieval:
        with pytest.raises(DeliveryTimeoutError):
            retrieval.wait(LAYERS - 1)
        retrieval.close()
        time.sleep(1.5)
        assert cache.pool.usage().quarantined_bytes == PAYLOAD_BYTES
    eventually(lambda: is_free(cache), "the worker has let go")
    view, content = fill(cache)
    eventually(lambda: gateway.metric("objectcache_deliveries_running") == 0, "the stalled delivery ends")
    eventually(lambda: not mappings_of_memory(worker), "the worker has unmapped the memory")
    assert view == content


def test_a_stopped_worker_that_dies_frees_the_memory(
    gateway: GatewayProcess, cache: GatewayCache, match: Match
) -> None:
    (worker,) = gateway.worker_pids
    os.kill(worker, signal.SIGSTOP)
    abandoned(cache, match)
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: is_free(cache), "nobody can write it any more")
    view, content = fill(cache)
    eventually(lambda: gateway.ask("GET", "/readyz").status == 200, "another worker runs")
    assert view == content


def test_a_stopped_worker_that_outlives_its_gateway_keeps_the_memory(own_gateway: StartGateway) -> None:
    gateway = own_gateway()
    (worker,) = gateway.worker_pids
    with open_cache(gateway) as cache:
        match = warm(cache)
        os.kill(worker, signal.SIGSTOP)
        try:
            abandoned(cache, match)
            gateway.kill()
            time.sleep(0.5)
            assert cache.pool.usage().quarantined_bytes == PAYLOAD_BYTES
        finally:
            os.kill(worker, signal.SIGCONT)
        eventually(lambda: is_free(cache), "the worker has ended")

        # Of the killed gateway nothing is in the way of the next one.
        gateway.start()

        def matches() -> bool:
            try:
                return cache.match(match.namespace, prompt(match.namespace, CHUNKS)).tokens > 0
            except GatewayUnavailableError:
                return False

        eventually(matches, "the client comes back by itself")
        retrieve_and_check(cache, match.namespace, prompt(match.namespace, CHUNKS))
        assert kind_of(cache) == "shm"


# -- cancelling, refusing ---------------------------------------------------------------------------


def test_what_is_cancelled_is_free_at_once_and_the_session_goes_on(
    gateway: GatewayProcess, cache: GatewayCache, match: Match
) -> None:
    session = cache._session
    for layer in (0, 3, 0, 7):
        with cache.retrieve(match) as retrieval:
            retrieval.wait(layer)
        eventually(lambda: is_free(cache), "the worker has let go")
    with cache.retrieve(match) as retrieval:
        check_delivery(retrieval, match)
    assert cache._session is session
    eventually(lambda: gateway.metric("objectcache_deliveries_running") == 0, "no delivery is left")


def test_what_is_refused_is_free_at_once_and_the_session_goes_on(cache: GatewayCache, match: Match) -> None:
    session = cache._session
    unknown = prompt(match.namespace, CHUNKS, seed=1)
    part = matched_part(match.namespace, unknown, PartId(0, 0), 0, CHUNKS)
    for _ in range(3):
        with pytest.raises(KeyNotFoundError):
            cache.retrieve(replace(match, parts=(part,)))
        assert is_free(cache)
    assert cache._session is session


def test_segments_that_are_cut_short_are_no_crash(own_gateway: StartGateway) -> None:
    gateway = own_gateway()
    (worker,) = gateway.worker_pids
    with open_cache(gateway) as cache:
        match = warm(cache)
        session = cache._session
        for path in gateway.objects.glob("*kv/seg/**/*.obj"):
            os.truncate(path, path.stat().st_size - CHUNKS * SLICE_BYTES // 2)  # within the last layer
        with pytest.raises(IntegrityError), cache.retrieve(match) as retrieval:
            retrieval.wait(LAYERS - 1)
        eventually(lambda: is_free(cache), "nobody writes it")
        assert cache._session is session
    assert gateway.worker_pids == [worker]


# -- who shares -------------------------------------------------------------------------------------


def test_the_best_target_is_taken(gateway: GatewayProcess) -> None:
    for options, kind in (({"target": "auto"}, "shm"), ({"target": "auto", "receiver": "process"}, "tcp")):
        namespace = new_namespace(flat_layout(2, 1000))
        with gateway.open(**options) as cache:
            store_parts(cache, namespace, prompt(namespace, 2))
            retrieve_and_check(cache, namespace, prompt(namespace, 2))
            assert kind_of(cache) == kind


def test_a_gateway_that_does_not_share(own_gateway: StartGateway) -> None:
    gateway = own_gateway(shared_memory=False)
    namespace = new_namespace(flat_layout(2, 1000))
    with gateway.open(target="auto") as cache:
        store_parts(cache, namespace, prompt(namespace, 2))
        match = retrieve_and_check(cache, namespace, prompt(namespace, 2))
        assert kind_of(cache) == "tcp"
    with gateway.open(target="shm") as cache, pytest.raises(SharedMemoryRefusedError):
        cache.retrieve(match)
    with pytest.raises(ConfigError):
        gateway.open(target="shm", receiver="process")


# -- a client that dies -----------------------------------------------------------------------------

DYING = """
import os, signal, sys
import objectcache
from objectcache.cache import RetrieveOptions
from objectcache.client import ClientOptions
from objectcache.testing.synthetic import flat_layout, new_namespace, prompt, store_parts

layers, chunks, slice_bytes = map(int, sys.argv[2:])
cache = objectcache.open(sys.argv[1], options=ClientOptions(target="shm", streams=2, buffer_bytes=1 << 30))
namespace = new_namespace(flat_layout(layers, slice_bytes))
store_parts(cache, namespace, prompt(namespace, chunks))
match = cache.match(namespace, prompt(namespace, chunks))
retrievals = [cache.retrieve(match) for _ in range(3)]
retrievals[0].wait(0)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_client_that_is_killed_in_mid_delivery_leaves_nothing_behind(
    gateway: GatewayProcess, cache: GatewayCache, match: Match
) -> None:
    (worker,) = gateway.worker_pids
    cache.close()

    def settled() -> bool:
        running = gateway.metric("objectcache_deliveries_running") + gateway.metric("objectcache_sessions")
        return running == 0 and not mappings_of_memory(worker)

    eventually(settled, "the client's session has ended")
    before = resources(worker), resources(gateway.pid)
    for _ in range(2):
        shape = [str(number) for number in (LAYERS, CHUNKS, SLICE_BYTES)]
        died = subprocess.run([sys.executable, "-c", DYING, gateway.url, *shape], check=False, timeout=60)
        assert died.returncode == -signal.SIGKILL
        eventually(settled, "its memory is let go of")
    assert gateway.worker_pids == [worker]

    def no_more() -> bool:  # fewer when what the fixture's own client had open was still there before
        after = resources(worker), resources(gateway.pid)
        return all(now <= then for pair in zip(after, before, strict=True) for now, then in zip(*pair, strict=True))

    eventually(no_more, "all is as it was")


def resources(pid: int) -> tuple[int, int]:
    """Descriptors of anything but segments, which stay open for a while; and threads."""
    found = 0
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found += ".obj" not in os.readlink(path)
    return found, len(os.listdir(f"/proc/{pid}/task"))
