"""Stopping: deliveries under way end, new ones are refused, a second signal hurries."""

from __future__ import annotations

import os
import signal

import pytest

from objectcache.errors import DrainingError, ObjectCacheError
from objectcache.testing.synthetic import LAYERWISE, check_delivery, flat_layout, new_namespace, prompt, store_parts
from tests.gateway.fixtures import StartGateway
from tests.gateway.process import eventually, stopped

LAYOUT = flat_layout(8, 256 << 10)
LAST_LAYER = 7


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_sigterm_lets_a_delivery_finish_and_refuses_new_ones(own_gateway: StartGateway, workers: int) -> None:
    gateway = own_gateway(workers=workers, workers_per_session=workers)
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, 32)
    with gateway.open(streams=4) as cache, gateway.open() as other:
        store_parts(cache, namespace, chain)
        match = cache.match(namespace, chain)
        with cache.retrieve(match) as warm:
            check_delivery(warm, match)
        with stopped(gateway.worker_pids[-1]):
            retrieval = cache.retrieve(match, options=LAYERWISE)
            gateway.signal(signal.SIGTERM)
            eventually(lambda: gateway.ask("GET", "/readyz").status == 503, "not ready any more")
            assert gateway.ask("GET", "/healthz").status == 200
            with pytest.raises(DrainingError):
                other.match(namespace, chain)
        with retrieval:
            check_delivery(retrieval, match)
        assert gateway.wait() == 0


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_second_signal_does_not_wait(own_gateway: StartGateway, workers: int) -> None:
    gateway = own_gateway(drain_s=600, workers=workers, workers_per_session=workers)
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, 32)
    with gateway.open(streams=4) as cache:
        store_parts(cache, namespace, chain)
        match = cache.match(namespace, chain)
        with cache.retrieve(match) as warm:
            check_delivery(warm, match)
        worker = gateway.worker_pids[-1]
        os.kill(worker, signal.SIGSTOP)  # and never goes on: the gateway ends it
        with cache.retrieve(match, options=LAYERWISE) as retrieval:
            gateway.signal(signal.SIGTERM)
            eventually(lambda: gateway.ask("GET", "/readyz").status == 503, "draining")
            gateway.signal(signal.SIGTERM)
            assert gateway.wait() == 0
            assert not os.path.exists(f"/proc/{worker}")
            with pytest.raises(ObjectCacheError):
                retrieval.wait(LAST_LAYER)
