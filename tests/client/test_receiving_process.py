"""The receiving process: what its end, its absence and its silence mean to the engine's process."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from objectcache.cache import Match, RetrieveOptions
from objectcache.client import GatewayCache
from objectcache.client.process_receivers import ProcessReceivers
from objectcache.errors import BufferPoolExhaustedError, DeliveryTimeoutError
from objectcache.testing.synthetic import (
    check_delivery,
    flat_layout,
    new_namespace,
    prompt,
    retrieve_and_check,
    store_parts,
)
from tests.gateway.process import GatewayProcess, children_of, eventually

LAYERS, CHUNKS = 8, 16
LAYOUT = flat_layout(LAYERS, 64 << 10)
TOTAL_BYTES = LAYERS * CHUNKS * 64 << 10


def receiving_processes() -> list[int]:
    """Of this process."""
    return [
        pid
        for pid in children_of(os.getpid())
        if b"objectcache.client.receiver_process" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


@pytest.fixture
def cache(gateway: GatewayProcess) -> Iterator[GatewayCache]:
    """Its pool holds just one delivery. No process of it is left afterwards."""
    cache = gateway.open(receiver="process", streams=2, buffer_bytes=TOTAL_BYTES, fence_s=0.3)
    assert isinstance(cache, GatewayCache)
    yield cache
    cache.close()
    eventually(lambda: not receiving_processes(), "the receiving process has ended")


@pytest.fixture
def match(cache: GatewayCache) -> Match:
    """After a first retrieval, so that the process is there."""
    namespace = new_namespace(LAYOUT)
    store_parts(cache, namespace, prompt(namespace, CHUNKS))
    return retrieve_and_check(cache, namespace, prompt(namespace, CHUNKS))


def test_one_that_hangs_is_ended_and_replaced(cache: GatewayCache, match: Match) -> None:
    """Its memory is nobody's until it is dead: it could go on at any time."""
    (pid,) = receiving_processes()
    os.kill(pid, signal.SIGSTOP)
    begin_s = time.monotonic()
    with (
        pytest.raises(DeliveryTimeoutError),
        cache.retrieve(match, options=RetrieveOptions(layers_per_unit=1, deadline_s=0.5)) as retrieval,
    ):
        retrieval.wait(0)
    assert time.monotonic() - begin_s < 2.0
    with pytest.raises(BufferPoolExhaustedError):
        cache.pool.allocate(TOTAL_BYTES)
    assert Path(f"/proc/{pid}").exists()
    eventually(lambda: not cache.pool.usage().quarantined_bytes, "its memory is free again", 10)
    assert not Path(f"/proc/{pid}").exists()
    with cache.retrieve(match) as retrieval:
        check_delivery(retrieval, match)


def test_orders_to_one_that_hangs_end(cache: GatewayCache, match: Match) -> None:
    (pid,) = receiving_processes()
    session = cache._session
    assert session is not None
    os.kill(pid, signal.SIGSTOP)
    begin_s = time.monotonic()
    for delivery in range(20_000):
        session.receivers.cancel(delivery, 0)
    assert time.monotonic() - begin_s < 10.0
    session.receivers.close()
    with cache.retrieve(match) as retrieval:
        check_delivery(retrieval, match)


def test_a_cache_can_be_closed_while_its_receiving_process_is_stopped(cache: GatewayCache, match: Match) -> None:
    (pid,) = receiving_processes()
    os.kill(pid, signal.SIGSTOP)
    closing = threading.Thread(target=cache.close, daemon=True)
    closing.start()
    closing.join(10.0)
    alive = closing.is_alive()
    if alive:
        os.kill(pid, signal.SIGCONT)
    assert not alive, "close waits for a process that does nothing"


def test_it_ends_with_the_engine(cache: GatewayCache, match: Match) -> None:
    """However that ends: here, its end of the socket is closed without a word."""
    (pid,) = receiving_processes()
    session = cache._session
    assert session is not None
    session.receivers.close()
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "the process has ended")
    eventually(lambda: session.dead, "the session knows")
    with cache.retrieve(match) as retrieval:
        check_delivery(retrieval, match)


def test_an_interrupt_is_for_the_engine(cache: GatewayCache, match: Match) -> None:
    """Ctrl-C goes to the whole foreground group."""
    (pid,) = receiving_processes()
    os.kill(pid, signal.SIGINT)
    for _ in range(3):
        with cache.retrieve(match) as retrieval:
            check_delivery(retrieval, match)
    assert receiving_processes() == [pid]


def test_without_room_to_keep_track_the_destination_is_free(cache: GatewayCache, match: Match) -> None:
    session = cache._session
    assert session is not None
    assert isinstance(session.receivers, ProcessReceivers)
    boards = session.receivers._boards
    held = boards.allocate(boards.size_bytes)
    with pytest.raises(BufferPoolExhaustedError, match="keep track"):
        cache.retrieve(match)
    eventually(lambda: not cache.pool.usage().quarantined_bytes, "nothing will write it")
    boards.release(held)
    with cache.retrieve(match) as retrieval:
        check_delivery(retrieval, match)
