"""Processes that die: a data worker, a receiving process, a gateway. Typed errors, and then it goes on."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from objectcache.client import GatewayCache
from objectcache.client.process_receivers import ProcessReceivers
from objectcache.errors import DeliveryError, GatewayUnavailableError, ObjectCacheError
from objectcache.testing.synthetic import check_delivery, flat_layout, new_namespace, prompt, store_parts
from tests.gateway.fixtures import StartGateway
from tests.gateway.process import PATIENCE_S, eventually

LAYERS = 16
LAYOUT = flat_layout(LAYERS, 128 << 10)
CHUNKS = 32
TARGETS = [{"target": "shm"}, {"target": "tcp"}, {"target": "tcp", "receiver": "process"}, {"target": "http"}]


@pytest.mark.parametrize("options", TARGETS, ids=str)
def test_a_worker_that_is_killed_in_mid_delivery(own_gateway: StartGateway, options: dict[str, Any]) -> None:
    gateway = own_gateway()
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, CHUNKS)
    with gateway.open(**options) as cache:
        store_parts(cache, namespace, chain)
        match = cache.match(namespace, chain)
        (worker,) = gateway.worker_pids
        os.kill(worker, signal.SIGSTOP)  # so that it is killed before it has sent everything
        killed_s = time.monotonic()
        if options["target"] == "http":
            os.kill(worker, signal.SIGCONT)
        retrieval = cache.retrieve(match)
        os.kill(worker, signal.SIGKILL)
        with retrieval, pytest.raises((DeliveryError, GatewayUnavailableError)):
            retrieval.wait(LAYERS - 1)
        assert time.monotonic() - killed_s < 5.0, "a death is noticed at once, not at the deadline"
        eventually(lambda: gateway.ask("GET", "/readyz").status == 200, "another worker runs")
        with cache.retrieve(match) as retrieval:
            check_delivery(retrieval, match)


@pytest.mark.parametrize("options", TARGETS, ids=str)
def test_a_gateway_that_is_restarted_is_used_again(own_gateway: StartGateway, options: dict[str, Any]) -> None:
    gateway = own_gateway()
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, CHUNKS)
    with gateway.open(**options) as cache:
        store_parts(cache, namespace, chain)
        match = cache.match(namespace, chain)
        with cache.retrieve(match) as retrieval:
            check_delivery(retrieval, match)
        gateway.kill()
        with pytest.raises(GatewayUnavailableError):
            cache.match(namespace, chain)
        gateway.start()

        def matches() -> bool:
            try:
                return cache.match(namespace, chain).tokens == CHUNKS * LAYOUT.key_tokens
            except GatewayUnavailableError:
                return False  # the breaker leaves it alone for a moment

        eventually(matches, "the client comes back by itself")
        match = cache.match(namespace, chain)
        with cache.retrieve(match) as retrieval:
            check_delivery(retrieval, match)


def test_an_absent_gateway_costs_little_and_then_nothing(own_gateway: StartGateway) -> None:
    gateway = own_gateway()
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, 4)
    with gateway.open() as cache:
        gateway.kill()
        started_s = time.monotonic()
        for _ in range(50):
            with pytest.raises(GatewayUnavailableError):
                cache.match(namespace, chain)
        assert time.monotonic() - started_s < PATIENCE_S / 10


def test_a_receiving_process_that_is_killed(own_gateway: StartGateway) -> None:
    gateway = own_gateway()
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, CHUNKS)
    with gateway.open(receiver="process") as cache:
        assert isinstance(cache, GatewayCache)
        store_parts(cache, namespace, chain)
        match = cache.match(namespace, chain)
        with cache.retrieve(match) as retrieval:
            check_delivery(retrieval, match)
        (worker,) = gateway.worker_pids
        session = cache._session
        assert session is not None
        assert isinstance(session.receivers, ProcessReceivers)
        os.kill(worker, signal.SIGSTOP)
        try:
            with cache.retrieve(match) as retrieval:
                os.kill(session.receivers.pids[-1], signal.SIGKILL)
                with pytest.raises(ObjectCacheError):
                    retrieval.wait(LAYERS - 1)
        finally:
            os.kill(worker, signal.SIGCONT)
        eventually(lambda: cache.pool.usage().quarantined_bytes == 0, "its memory is free: nobody can write it")
        with cache.retrieve(match) as retrieval:
            check_delivery(retrieval, match)
