"""The stalled writer: it stops in mid-delivery, the deadline passes, the buffer is used again, it goes on.

What was put into the buffer since must stay as it is, on every target.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from objectcache.cache import KVCache
from objectcache.client import GatewayCache
from objectcache.errors import BufferPoolExhaustedError, DeliveryTimeoutError
from objectcache.testing.synthetic import check_delivery, flat_layout, new_namespace, prompt, store_parts
from tests.client.stopping import stopped_in_mid_delivery
from tests.gateway.process import GatewayProcess, eventually

LAYERS = 24
LAYOUT = flat_layout(LAYERS, 128 << 10)
CHUNKS = 32
PAYLOAD_BYTES = LAYERS * (128 << 10) * CHUNKS  # 96 MiB: a worker cannot have sent it all before it is stopped
TARGETS: dict[str, dict[str, Any]] = {
    "striped, threads": {"target": "tcp", "receiver": "threads"},
    "striped, process": {"target": "tcp", "receiver": "process"},
    "response": {"target": "http"},
}


@pytest.fixture(params=list(TARGETS.values()), ids=list(TARGETS))
def cache(request: pytest.FixtureRequest, gateway: GatewayProcess) -> Iterator[KVCache]:
    """A pool with room for just one delivery: the next one gets the same memory, or none."""
    with gateway.open(**request.param, streams=2, buffer_bytes=PAYLOAD_BYTES, fence_s=0.3) as opened:
        yield opened


def test_the_new_content_is_untouched(gateway: GatewayProcess, cache: KVCache) -> None:
    assert isinstance(cache, GatewayCache)
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, CHUNKS)
    store_parts(cache, namespace, chain)
    match = cache.match(namespace, chain)
    with cache.retrieve(match) as warm:  # connections are open, a receiving process runs
        check_delivery(warm, match)
    eventually(lambda: cache.pool.usage().in_use_bytes == 0, "the first delivery's memory is free again")

    (worker,) = gateway.worker_pids
    with stopped_in_mid_delivery(worker, cache, match) as retrieval:
        with pytest.raises(DeliveryTimeoutError):
            retrieval.wait(LAYERS - 1)
        retrieval.close()

        def memory_is_back() -> bool:
            """Either it is quarantined and the pool has nothing to give, or it is free."""
            usage = cache.pool.usage()
            if usage.quarantined_bytes:
                with pytest.raises(BufferPoolExhaustedError):
                    cache.pool.allocate(PAYLOAD_BYTES)
                return False
            return usage.in_use_bytes == 0

        eventually(memory_is_back, "the fence holds, and then lets go of the memory", within_s=5.0)
        buffer = cache.pool.allocate(PAYLOAD_BYTES)
        pattern = bytes(range(256)) * (PAYLOAD_BYTES // 256)
        buffer.view[:] = pattern
    # The worker goes on. Whatever it still writes, and all that it does next, must not land here.
    eventually(lambda: gateway.metric("objectcache_deliveries_running") == 0, "the stalled delivery ends")
    assert buffer.view == pattern
    cache.pool.release(buffer)
    match = cache.match(namespace, chain)
    with cache.retrieve(match) as again:
        check_delivery(again, match)
