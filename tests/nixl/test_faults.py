"""Whatever stops or dies: memory is used again only when nobody can write it, and the other side goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from objectcache.cache import Match, RetrieveOptions
from objectcache.client import GatewayCache
from objectcache.errors import (
    BufferPoolExhaustedError,
    DeliveryError,
    DeliveryTimeoutError,
    GatewayUnavailableError,
    IntegrityError,
)
from objectcache.testing.synthetic import LAYERWISE, check_delivery, prompt, retrieve_and_check
from tests.client.stopping import stopped_in_mid_delivery
from tests.gateway.fixtures import StartGateway
from tests.gateway.process import GatewayProcess, eventually
from tests.nixl.opening import CHUNKS, LAYERS, PAYLOAD_BYTES, SLICE_BYTES, is_free, open_cache, warm


@pytest.fixture
def cache(gateway: GatewayProcess) -> Iterator[GatewayCache]:
    with open_cache(gateway) as opened:
        yield opened


@pytest.fixture
def match(cache: GatewayCache) -> Match:
    return warm(cache)


def fill(cache: GatewayCache) -> tuple[memoryview, bytes]:
    """All of the pool's memory, with new content."""
    content = bytes(range(256)) * (PAYLOAD_BYTES // 256)
    view = cache.pool.allocate(PAYLOAD_BYTES).view
    view[:] = content
    return view, content


def comes_back(cache: GatewayCache, match: Match) -> None:
    """The client goes on by itself, and gets the right bytes."""
    chain = prompt(match.namespace, CHUNKS)

    def matches() -> bool:
        with suppress(GatewayUnavailableError):  # the breaker leaves it alone for a moment
            return cache.match(match.namespace, chain).tokens > 0
        return False

    eventually(matches, "the client comes back")
    retrieve_and_check(cache, match.namespace, chain)


# -- a worker that stops or dies --------------------------------------------------------------------


def test_the_stalled_writer(gateway: GatewayProcess, cache: GatewayCache, match: Match) -> None:
    """It stops in mid-delivery and goes on past the deadline: what is in the buffer since then stays as it is."""
    (worker,) = gateway.worker_pids
    with stopped_in_mid_delivery(worker, cache, match) as retrieval:
        with pytest.raises(DeliveryTimeoutError):
            retrieval.wait(LAYERS - 1)
        retrieval.close()
        time.sleep(1.5)  # longer than all that a fence waits for
        assert cache.pool.usage().quarantined_bytes == PAYLOAD_BYTES
        with pytest.raises(BufferPoolExhaustedError):
            cache.pool.allocate(1)
    eventually(lambda: is_free(cache), "the worker has let go")
    view, content = fill(cache)
    eventually(lambda: gateway.metric("objectcache_deliveries_running") == 0, "the stalled delivery ends")
    time.sleep(0.3)
    assert view == content


def test_a_stopped_worker_that_dies_frees_the_memory(
    gateway: GatewayProcess, cache: GatewayCache, match: Match
) -> None:
    (worker,) = gateway.worker_pids
    os.kill(worker, signal.SIGSTOP)
    retrieval = cache.retrieve(match, options=RetrieveOptions(layers_per_unit=1, deadline_s=0.5))
    with pytest.raises(DeliveryTimeoutError):
        retrieval.wait(LAYERS - 1)
    retrieval.close()
    time.sleep(1.0)
    assert cache.pool.usage().quarantined_bytes == PAYLOAD_BYTES
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: is_free(cache), "nobody can write it any more")
    view, content = fill(cache)
    eventually(lambda: gateway.ask("GET", "/readyz").status == 200, "another worker runs")
    assert view == content


def test_a_worker_that_is_killed_in_mid_delivery(gateway: GatewayProcess, cache: GatewayCache, match: Match) -> None:
    for _ in range(2):
        (worker,) = gateway.worker_pids
        os.kill(worker, signal.SIGSTOP)  # so that it is killed before it has sent everything
        killed_s = time.monotonic()
        retrieval = cache.retrieve(match, options=LAYERWISE)
        os.kill(worker, signal.SIGKILL)
        with retrieval, pytest.raises((DeliveryError, GatewayUnavailableError)):
            retrieval.wait(LAYERS - 1)
        assert time.monotonic() - killed_s < 5.0, "a death is noticed at once, not at the deadline"
        eventually(lambda: gateway.ask("GET", "/readyz").status == 200, "another worker runs")
        eventually(lambda: is_free(cache), "nobody writes it any more")
        with cache.retrieve(match, options=LAYERWISE) as again:
            check_delivery(again, match)


def test_a_gateway_that_is_killed_in_mid_delivery_is_used_again(
    gateway: GatewayProcess, cache: GatewayCache, match: Match
) -> None:
    with cache.retrieve(match, options=RetrieveOptions(layers_per_unit=1)) as retrieval:
        retrieval.wait(0)
        gateway.kill()
    with pytest.raises(GatewayUnavailableError):
        cache.match(match.namespace, prompt(match.namespace, CHUNKS))
    gateway.start()
    eventually(lambda: is_free(cache), "nobody writes it any more")
    comes_back(cache, match)


# -- a client that dies -----------------------------------------------------------------------------

DYING = """
import os, signal, sys
import objectcache
from objectcache.client import ClientOptions
from objectcache.testing.synthetic import LAYERWISE, flat_layout, new_namespace, prompt, store_parts

layers, chunks, slice_bytes = map(int, sys.argv[2:5])
cache = objectcache.open(sys.argv[1], options=ClientOptions(target="nixl", streams=2, buffer_bytes=1 << 30))
namespace = new_namespace(flat_layout(layers, slice_bytes))
store_parts(cache, namespace, prompt(namespace, chunks))
match = cache.match(namespace, prompt(namespace, chunks))
retrievals = [cache.retrieve(match, options=LAYERWISE) for _ in range(3)]
retrievals[0].wait(0)
os.kill(os.getpid(), int(sys.argv[5]) if len(sys.argv) > 5 else signal.SIGKILL)
"""


def test_clients_that_are_killed_in_mid_delivery_leave_nothing_behind(
    gateway: GatewayProcess, cache: GatewayCache, match: Match
) -> None:
    (worker,) = gateway.worker_pids
    shape = [str(number) for number in (LAYERS, CHUNKS, SLICE_BYTES)]

    def die() -> tuple[int, int]:
        died = subprocess.run([sys.executable, "-c", DYING, gateway.url, *shape], check=False, timeout=60)
        assert died.returncode == -signal.SIGKILL
        eventually(lambda: gateway.metric("objectcache_deliveries_running") == 0, "its deliveries have ended")
        eventually(lambda: gateway.metric("objectcache_sessions") == 1, "and its session")
        return resources(worker)

    first = die()
    for _ in range(2):
        die()
    eventually(lambda: all(now <= then for now, then in zip(resources(worker), first, strict=True)), "nothing is left")
    assert gateway.worker_pids == [worker]
    with cache.retrieve(match) as retrieval:
        check_delivery(retrieval, match)


def resources(pid: int) -> tuple[int, int]:
    """Descriptors of anything but segments, which stay open for a while; and threads."""
    found = 0
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):  # closed meanwhile
            found += ".obj" not in os.readlink(entry.path)
    return found, len(os.listdir(f"/proc/{pid}/task"))


def test_a_client_that_stands_still_holds_up_nobody_else(
    gateway: GatewayProcess, cache: GatewayCache, match: Match
) -> None:
    shape = [str(number) for number in (LAYERS, CHUNKS, SLICE_BYTES)]
    command = [sys.executable, "-c", DYING, gateway.url, *shape, str(int(signal.SIGSTOP))]
    with subprocess.Popen(command) as still:
        try:
            eventually(lambda: gateway.metric("objectcache_sessions") == 2, "it has begun")
            time.sleep(1.5)
            for _ in range(3):
                with cache.retrieve(match) as retrieval:
                    check_delivery(retrieval, match)
        finally:
            still.kill()
    eventually(lambda: gateway.metric("objectcache_deliveries_running") == 0, "its deliveries end with it")


# -- a store that is damaged ------------------------------------------------------------------------


def test_segments_that_are_cut_short(own_gateway: StartGateway) -> None:
    gateway = own_gateway()
    (worker,) = gateway.worker_pids
    with open_cache(gateway) as cache:
        match = warm(cache)
        session = cache._session
        for path in gateway.segments:
            os.truncate(path, path.stat().st_size - CHUNKS * SLICE_BYTES // 2)  # within the last layer
        with pytest.raises(IntegrityError), cache.retrieve(match) as retrieval:
            retrieval.wait(LAYERS - 1)
        eventually(lambda: is_free(cache), "nobody writes it")
        assert cache._session is session
    assert gateway.worker_pids == [worker]
