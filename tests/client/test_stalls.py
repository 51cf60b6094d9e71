"""Data workers that stop before the first byte, or only for a while."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from objectcache.cache import Match, RetrieveOptions
from objectcache.client import GatewayCache
from objectcache.errors import DeliveryTimeoutError
from objectcache.testing.synthetic import check_delivery, flat_layout, new_namespace, prompt, store_parts
from tests.gateway.process import GatewayProcess, eventually, stopped

LAYERS, CHUNKS, SLICE_BYTES = 24, 16, 64 << 10
TOTAL_BYTES = LAYERS * CHUNKS * SLICE_BYTES
DEADLINE_S = 0.7
TARGETS = [("shm", "threads"), ("tcp", "threads"), ("tcp", "process"), ("http", "threads")]


@pytest.fixture(params=TARGETS, ids=lambda target: "-".join(target))
def cache(request: pytest.FixtureRequest, gateway: GatewayProcess) -> Iterator[GatewayCache]:
    """Its pool holds just one delivery."""
    target, receiver = request.param
    with gateway.open(target=target, receiver=receiver, streams=2, buffer_bytes=TOTAL_BYTES, fence_s=0.3) as opened:
        assert isinstance(opened, GatewayCache)
        yield opened


@pytest.fixture
def match(cache: GatewayCache) -> Match:
    """After a first delivery: connections are open, and a receiving process runs."""
    namespace = new_namespace(flat_layout(LAYERS, SLICE_BYTES))
    store_parts(cache, namespace, prompt(namespace, CHUNKS), cuts=[7])
    found = cache.match(namespace, prompt(namespace, CHUNKS))
    with cache.retrieve(found) as warm:
        check_delivery(warm, found)
    return found


def test_a_worker_that_is_stopped_before_the_first_byte(
    gateway: GatewayProcess, cache: GatewayCache, match: Match
) -> None:
    (worker,) = gateway.worker_pids
    with stopped(worker):
        begin_s = time.monotonic()
        with (
            pytest.raises(DeliveryTimeoutError),
            cache.retrieve(match, options=RetrieveOptions(layers_per_unit=1, deadline_s=DEADLINE_S)) as retrieval,
        ):
            retrieval.wait(0)
        assert time.monotonic() - begin_s < DEADLINE_S + 2.0
        if cache.options.target == "shm":
            # The worker may have begun to write just before it was stopped, and would go on.
            time.sleep(1.0)
            assert cache.pool.usage().quarantined_bytes == TOTAL_BYTES
        else:
            within_s = 10
            eventually(lambda: not cache.pool.usage().quarantined_bytes, "no frame had begun: it is free", within_s)
        again = cache.match(match.namespace, prompt(match.namespace, CHUNKS))
        assert again.tokens == match.tokens, "the control process does not wait for its worker"
        assert gateway.ask("GET", "/metrics").status == 200
    eventually(lambda: not cache.pool.usage().quarantined_bytes, "the worker has let go")
    with cache.retrieve(match) as retrieval:
        check_delivery(retrieval, match)


def test_a_stall_that_ends_in_time_is_no_failure(gateway: GatewayProcess, cache: GatewayCache, match: Match) -> None:
    (worker,) = gateway.worker_pids
    with cache.retrieve(match) as retrieval:
        retrieval.wait(0)
        with stopped(worker), suppress(DeliveryTimeoutError):
            retrieval.wait(LAYERS - 1, timeout_s=0.2)
        check_delivery(retrieval, match)
    with cache.retrieve(match) as retrieval:
        check_delivery(retrieval, match)
