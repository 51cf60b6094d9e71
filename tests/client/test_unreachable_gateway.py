"""Gateways that are not there, hang, or were there until just now: typed errors, soon, and no connections left."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import objectcache
from objectcache.cache import KVCache, RetrieveOptions
from objectcache.client import ClientOptions, GatewayCache
from objectcache.errors import DeliveryTimeoutError, GatewayUnavailableError, ObjectCacheError
from objectcache.testing.synthetic import (
    flat_layout,
    new_namespace,
    prompt,
    retrieve_and_check,
    store_parts,
)
from tests.gateway.fixtures import StartGateway
from tests.gateway.process import BUCKET, GatewayProcess, eventually, stopped

LAYOUT = flat_layout(4, 1 << 14)
CHUNKS = 4
TARGETS: list[dict[str, Any]] = [{"target": "tcp"}, {"target": "tcp", "receiver": "process"}, {"target": "http"}]


class HangingServer:
    """Accepts connections, or only lets them queue up, and says nothing."""

    def __init__(self, sock: socket.socket) -> None:
        self.port: int = sock.getsockname()[1]


@contextmanager
def hanging_server() -> Iterator[HangingServer]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield HangingServer(sock)


def my_sockets() -> int:
    links = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            continue  # the listing's own
    return sum(link.startswith("socket:") for link in links)


@contextmanager
def no_sockets_left() -> Iterator[None]:
    before = my_sockets()
    yield
    eventually(lambda: my_sockets() <= before, "every socket is closed", 10)


def every_call(cache: KVCache) -> list[Any]:
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, CHUNKS)
    return [
        lambda: cache.match(namespace, chain),
        lambda: cache.store(namespace, chain, objectcache.PartId(0, 0)),
        lambda: cache.commit([]),
    ]


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    with no_sockets_left(), objectcache.open(f"http://127.0.0.1:{port}/{BUCKET}") as cache:
        begin_s = time.monotonic()
        for call in every_call(cache) * 3:
            with pytest.raises(GatewayUnavailableError):
                call()
        assert time.monotonic() - begin_s < 2.0


def test_somebody_listens_and_never_answers() -> None:
    """Every call ends after its timeout; and after a few, the breaker spares the rest of them that."""
    with hanging_server() as server, no_sockets_left():
        options = ClientOptions(timeout_s=0.4)
        with objectcache.open(f"http://127.0.0.1:{server.port}/{BUCKET}", options=options) as cache:
            begin_s = time.monotonic()
            for call in every_call(cache) * 4:
                with pytest.raises(GatewayUnavailableError):
                    call()
            assert time.monotonic() - begin_s < 4.0


@pytest.mark.parametrize("options", TARGETS, ids=str)
def test_a_deadline_bounds_a_retrieval_from_a_gateway_that_hangs(
    gateway: GatewayProcess, options: dict[str, Any]
) -> None:
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, CHUNKS)
    with gateway.open(**options) as cache:
        store_parts(cache, namespace, chain)
        match = cache.match(namespace, chain)
        with cache.retrieve(match) as warm:
            warm.wait(3)
        with stopped(gateway.pid):
            begin_s = time.monotonic()
            with (
                pytest.raises(DeliveryTimeoutError),
                cache.retrieve(match, options=RetrieveOptions(layers_per_unit=1, deadline_s=0.5)) as late,
            ):
                late.wait(3)
            assert time.monotonic() - begin_s < 3.0
        assert retrieve_and_check(cache, namespace, chain).tokens == match.tokens, "late is no reason to give up on it"


def test_a_kept_connection_to_a_gateway_that_was_killed(own_gateway: StartGateway) -> None:
    gateway = own_gateway()
    namespace = new_namespace(LAYOUT)
    with gateway.open() as cache:
        store_parts(cache, namespace, prompt(namespace, CHUNKS))
        assert retrieve_and_check(cache, namespace, prompt(namespace, CHUNKS)).tokens
        match = cache.match(namespace, prompt(namespace, CHUNKS))
        gateway.kill()
        with pytest.raises(GatewayUnavailableError):
            cache.match(namespace, prompt(namespace, CHUNKS))
        with pytest.raises(GatewayUnavailableError):
            cache.retrieve(match)
        with pytest.raises(GatewayUnavailableError):
            cache.release(match)
        assert isinstance(cache, GatewayCache)
        eventually(lambda: cache.pool.usage().in_use_bytes == 0, "no memory is kept for what never began")
        assert cache.pool.usage().quarantined_bytes == 0


@pytest.mark.parametrize("options", TARGETS, ids=str)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_closed_cache_leaves_no_sockets_and_no_processes(
    gateway: GatewayProcess, options: dict[str, Any], host: str
) -> None:
    """By whichever of its names the gateway is known."""
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, CHUNKS)
    with no_sockets_left():
        url = f"http://{host}:{gateway.port}/{BUCKET}"
        with objectcache.open(url, options=ClientOptions(buffer_bytes=1 << 24, **options)) as cache:
            store_parts(cache, namespace, chain)
            for _ in range(3):
                retrieve_and_check(cache, namespace, chain)
            cache.retrieve(cache.match(namespace, chain)).close()
        with pytest.raises(ObjectCacheError):
            cache.match(namespace, chain)
    eventually(lambda: gateway.metric("objectcache_sessions") == 0, "the session ends with its client")
