"""Requests to a far store: in any order, bounded, shared by retrievals at once, and ended with them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from objectcache.cache.far_reading import REQUESTS_AT_ONCE
from objectcache.cache.requests import FIRST_REQUESTS
from objectcache.errors import (
    ObjectCacheError,
    StoreUnavailableError,
)
from objectcache.testing.synthetic import (
    LAYERWISE,
    check_delivery,
    check_layer,
    flat_layout,
    new_namespace,
    prompt,
    store_parts,
)
from tests.cache.far import World
from tests.gateway.process import eventually


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    with world.cache:
        yield world


@pytest.mark.parametrize("held", range(12))
def test_requests_may_be_answered_in_any_order(world: World, held: int) -> None:
    """Of three layers of 8 MiB the first is eight requests, the others are two each. Rows come with the first ones."""
    world.namespace = new_namespace(flat_layout(3, 1 << 20))
    chain = prompt(world.namespace, 8)
    store_parts(world.cache, world.namespace, chain)
    match = world.cache.match(world.namespace, chain)
    requests = world.requests(match)
    assert len(requests) == 12
    layer = requests[held].contents[0].layer_run.layer
    go_on = threading.Event()
    answered: list[int] = []

    def hold(kind: str, name: str, offset: int) -> None:
        if offset == requests[held].begin:
            go_on.wait(30)
        answered.append(offset)

    world.store.before = hold
    with world.cache.retrieve(match, options=LAYERWISE) as retrieval:
        try:
            eventually(lambda: len(answered) == 11, "the others are answered")
            if layer:
                retrieval.wait(layer - 1)
                check_layer(retrieval, match.parts, layer - 1)
            assert retrieval.landed_s(layer) is None
        finally:
            go_on.set()
        check_delivery(retrieval, match)


def test_few_requests_are_begun_with_and_more_later(world: World) -> None:
    """Later layers' would take their share of the network from the first one's."""
    world.namespace = new_namespace(flat_layout(40, 1 << 20))
    chain = prompt(world.namespace, 8)
    store_parts(world.cache, world.namespace, chain)
    match = world.cache.match(world.namespace, chain)
    permits = threading.Semaphore(0)
    begun: list[int] = []

    def hold(kind: str, name: str, offset: int) -> None:
        if kind == "get":
            begun.append(offset)
            permits.acquire(timeout=30)

    world.store.before = hold
    with world.cache.retrieve(match, options=LAYERWISE) as retrieval:
        try:
            eventually(lambda: len(begun) >= FIRST_REQUESTS, "the first requests are under way")
            assert len(begun) == FIRST_REQUESTS
            permits.release(2)
            eventually(lambda: len(begun) >= FIRST_REQUESTS + 4, "two more for each that ended")
            permits.release(20)
            eventually(lambda: len(begun) >= 22 + REQUESTS_AT_ONCE, "all that may be are under way")
            assert world.store.most_at_once == REQUESTS_AT_ONCE
        finally:
            permits.release(1000)
        check_delivery(retrieval, match)


def test_closing_while_requests_wait_that_others_share(world: World) -> None:
    """More requests than there are threads, each wanted by two retrievals: those not begun are cancelled, and asked by
    nobody again."""
    world.namespace = new_namespace(flat_layout(3, 1 << 20))
    chains = [prompt(world.namespace, 8, seed=seed) for seed in range(4)]
    for chain in chains:
        store_parts(world.cache, world.namespace, chain)
    go_on = threading.Event()

    def hold(kind: str, name: str, offset: int) -> None:
        if kind == "get":
            go_on.wait(20)

    world.store.before = hold
    matches = [world.cache.match(world.namespace, chain) for chain in chains]
    retrievals = [world.cache.retrieve(match, options=LAYERWISE) for match in matches for _ in range(2)]
    closing = threading.Thread(target=world.cache.close)
    closing.start()
    eventually(lambda: world.cache._flights.closed, "closing has begun")
    go_on.set()
    closing.join(20)
    assert not closing.is_alive()
    for retrieval in retrievals:
        with suppress(ObjectCacheError):
            retrieval.wait(2, timeout_s=5)
        assert retrieval.complete or retrieval.error is not None, "it is known what has become of it"
    assert not all(retrieval.complete for retrieval in retrievals)
    for retrieval in retrievals:
        retrieval.close()


def test_retrievals_at_once_ask_once(world: World) -> None:
    """All begin while nothing is answered. None waits for another's end: the last to begin is read first."""
    world.namespace = new_namespace(flat_layout(3, 1 << 20))
    chain = prompt(world.namespace, 8)
    store_parts(world.cache, world.namespace, chain)
    match = world.cache.match(world.namespace, chain)
    go_on, last = threading.Event(), threading.Event()
    requests = world.requests(match)

    def hold(kind: str, name: str, offset: int) -> None:
        (last if offset == requests[-1].begin else go_on).wait(30)

    world.store.before = hold
    world.counted()
    with ExitStack() as stack:
        retrievals = [stack.enter_context(world.cache.retrieve(match, options=LAYERWISE)) for _ in range(4)]
        try:
            go_on.set()
            for retrieval in reversed(retrievals):  # although the first one's delivery has not ended
                retrieval.wait(0)
            assert not any(retrieval.complete for retrieval in retrievals)
        finally:
            go_on.set()
            last.set()
        for retrieval in retrievals:
            check_delivery(retrieval, match)
    assert world.counted() == {"get": len(requests)}


def test_many_requests_of_retrievals_at_once_are_shared_too(world: World) -> None:
    world.namespace = new_namespace(flat_layout(40, 1 << 20))
    chain = prompt(world.namespace, 8)
    store_parts(world.cache, world.namespace, chain)
    match = world.cache.match(world.namespace, chain)
    world.counted()
    with world.cache.retrieve(match, options=LAYERWISE) as alone:
        check_delivery(alone, match)
    one = world.counted()["get"]
    world.store.latency_s = 0.02
    with ExitStack() as stack:
        for retrieval in [stack.enter_context(world.cache.retrieve(match, options=LAYERWISE)) for _ in range(3)]:
            check_delivery(retrieval, match)
    assert one <= world.counted()["get"] < 2 * one, "and not three times as many"


@pytest.mark.parametrize("closes", [False, True])
def test_who_waited_for_an_answer_that_failed_asks_itself(world: World, closes: bool) -> None:
    store_parts(world.cache, world.namespace, world.chain)
    match = world.cache.match(world.namespace, world.chain)
    go_on, asked = threading.Event(), threading.Event()

    def fails_once(kind: str, name: str, offset: int) -> None:
        if not asked.is_set():
            asked.set()
            go_on.wait(30)
            raise StoreUnavailableError("away")

    world.store.before = fails_once
    world.counted()
    with world.cache.retrieve(match, options=LAYERWISE) as first:
        assert asked.wait(30)
        with world.cache.retrieve(match, options=LAYERWISE) as second:
            if closes:
                second.close()
            go_on.set()
            with pytest.raises(StoreUnavailableError):
                first.wait(0)
            if not closes:
                check_delivery(second, match)
    eventually(lambda: not world.cache.pool.usage().quarantined_bytes, "nothing writes a destination any more")
    assert world.counted() == {"get": 1 if closes else 2}


def test_closing_a_retrieval_ends_its_requests(world: World) -> None:
    world.namespace = new_namespace(flat_layout(40, 1 << 20))
    chain = prompt(world.namespace, 8)
    store_parts(world.cache, world.namespace, chain)
    match = world.cache.match(world.namespace, chain)
    go_on = threading.Event()

    def hold(kind: str, name: str, offset: int) -> None:
        go_on.wait(30)

    world.store.before = hold
    world.counted()
    retrieval = world.cache.retrieve(match, options=LAYERWISE)
    eventually(lambda: sum(world.cache.request_counts().values()) >= 20, "requests are under way")
    retrieval.close()
    assert world.cache.pool.usage().quarantined_bytes
    go_on.set()
    eventually(lambda: not world.cache.pool.usage().quarantined_bytes, "nothing writes the destination any more")
    assert world.counted()["get"] <= REQUESTS_AT_ONCE
