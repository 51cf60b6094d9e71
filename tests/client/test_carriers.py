"""Workers that stop or die while others of the same session go on."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from objectcache.client import GatewayCache
from objectcache.errors import DeliveryError, DeliveryTimeoutError, GatewayUnavailableError
from objectcache.testing.synthetic import LAYERWISE, check_delivery, flat_layout, new_namespace, prompt, store_parts
from tests.client.stopping import stopped_in_mid_delivery
from tests.gateway.fixtures import StartGateway
from tests.gateway.process import GatewayProcess, eventually

WORKERS = 2
LAYERS, CHUNKS, SLICE_BYTES = 24, 32, 128 << 10
LAYOUT = flat_layout(LAYERS, SLICE_BYTES)
PAYLOAD_BYTES = LAYERS * CHUNKS * SLICE_BYTES
TARGETS = [{"target": "shm"}, {"target": "tcp"}, {"target": "tcp", "receiver": "process", "receiver_processes": 2}]


@pytest.fixture(scope="module")
def spreading(module_gateway: StartGateway) -> GatewayProcess:
    return module_gateway(workers=WORKERS, workers_per_session=WORKERS, merge_bytes_s=0)


@pytest.mark.parametrize("which", range(WORKERS))
@pytest.mark.parametrize("options", TARGETS, ids=str)
def test_one_that_is_killed_in_mid_delivery(spreading: GatewayProcess, options: dict[str, Any], which: int) -> None:
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, CHUNKS)
    with spreading.open(streams=4, **options) as cache:
        assert isinstance(cache, GatewayCache)
        store_parts(cache, namespace, chain)
        match = cache.match(namespace, chain)
        workers = spreading.worker_pids
        os.kill(workers[which], signal.SIGSTOP)  # so that it is killed before it has sent all of its own
        killed_s = time.monotonic()
        retrieval = cache.retrieve(match, options=LAYERWISE)
        os.kill(workers[which], signal.SIGKILL)
        with retrieval, pytest.raises((DeliveryError, GatewayUnavailableError)):
            retrieval.wait(LAYERS - 1)
        assert time.monotonic() - killed_s < 5.0, "a death is noticed at once, not at the deadline"
        eventually(lambda: not cache.pool.usage().quarantined_bytes, "nobody writes its memory any more")
        eventually(lambda: spreading.ask("GET", "/readyz").status == 200, "another worker runs")
        assert workers[1 - which] in spreading.worker_pids
        with cache.retrieve(match, options=LAYERWISE) as retrieval:
            check_delivery(retrieval, match)
        eventually(lambda: spreading.metric("objectcache_sessions") == 1, "the session before has ended")


@pytest.mark.parametrize("which", range(WORKERS))
def test_one_that_stands_still_keeps_the_shared_memory_until_it_goes_on(spreading: GatewayProcess, which: int) -> None:
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, CHUNKS)
    with spreading.open(target="shm", streams=2, buffer_bytes=PAYLOAD_BYTES, fence_s=0.3) as cache:
        assert isinstance(cache, GatewayCache)
        store_parts(cache, namespace, chain)
        match = cache.match(namespace, chain)
        with cache.retrieve(match) as retrieval:
            check_delivery(retrieval, match)
        with stopped_in_mid_delivery(spreading.worker_pids[which], cache, match) as retrieval:
            with pytest.raises(DeliveryTimeoutError):
                retrieval.wait(LAYERS - 1)
            retrieval.close()
            time.sleep(1.0)
            assert cache.pool.usage().quarantined_bytes == PAYLOAD_BYTES
        eventually(lambda: not cache.pool.usage().quarantined_bytes, "the worker has let go")
        content = bytes(range(256)) * (PAYLOAD_BYTES // 256)
        view = cache.pool.allocate(PAYLOAD_BYTES).view
        view[:] = content
        eventually(lambda: spreading.metric("objectcache_deliveries_running") == 0, "the stalled delivery ends")
        assert view == content


@pytest.mark.parametrize("options", TARGETS, ids=str)
def test_what_one_of_them_sends_alone_ends_for_all(spreading: GatewayProcess, options: dict[str, Any]) -> None:
    namespace = new_namespace(flat_layout(4, 64 << 10))
    chain = prompt(namespace, 4)
    with spreading.open(streams=4, **options) as cache:
        assert isinstance(cache, GatewayCache)
        store_parts(cache, namespace, chain)
        match = cache.match(namespace, chain)
        sessions = set()
        for turn in range(12):
            with cache.retrieve(match, options=LAYERWISE) as retrieval:
                if turn % 3:
                    check_delivery(retrieval, match)
            sessions.add(cache._session)
        eventually(lambda: not cache.pool.usage().quarantined_bytes, "nobody writes its memory any more")
        assert len(sessions) == 1
        eventually(lambda: spreading.metric("objectcache_deliveries_running") == 0, "no delivery is left")
