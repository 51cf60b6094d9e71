"""The queue over every kind of cache, written by threads and by a process: what is visible, and when."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import objectcache
from objectcache.cache import KVCache, PartId
from objectcache.errors import ConfigError, LayoutError
from objectcache.storing import Reason, StoreQueue
from objectcache.testing.synthetic import new_namespace, prompt, retrieve_and_check, store_parts
from tests.gateway.process import GatewayProcess
from tests.storing.engine import (
    CHUNKS,
    LAYERS,
    LAYOUT,
    OPTIONS,
    PART,
    PAYLOAD_BYTES,
    WAIT_S,
    give,
    layer_of,
    two_shards,
)

WAYS = [
    ("memory", "threads"),
    ("file", "threads"),
    ("file", "process"),
    ("gateway", "threads"),
    ("gateway", "process"),
]


@pytest.fixture(scope="module", params=WAYS, ids=lambda way: "-".join(way))
def way(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, gateway: GatewayProcess
) -> Iterator[tuple[KVCache, StoreQueue]]:
    kind, writer = request.param
    if kind == "gateway":
        opened: KVCache = gateway.open()
    else:
        url = "memory://storing" if kind == "memory" else f"file://{tmp_path_factory.mktemp('store')}"
        opened = objectcache.open(url)
    with opened as cache, StoreQueue(cache, replace(OPTIONS, writer=writer)) as queue:
        yield cache, queue


@pytest.fixture
def cache(way: tuple[KVCache, StoreQueue]) -> KVCache:
    return way[0]


@pytest.fixture
def queue(way: tuple[KVCache, StoreQueue]) -> StoreQueue:
    return way[1]


def test_nothing_is_visible_before_the_step_is_clean_and_all_of_it_after(cache: KVCache, queue: StoreQueue) -> None:
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, CHUNKS)
    before = queue.stats
    copied: list[int] = []
    handle = queue.begin(namespace, chain, PART, on_copied=copied.append)
    assert handle is not None
    assert (handle.first, handle.stop) == (0, CHUNKS)
    assert give(handle, chain)
    assert cache.match(namespace, chain).tokens == 0
    assert not handle.wait(0)
    handle.finish()
    assert handle.wait(WAIT_S)
    assert (handle.stored, handle.reason, handle.stored_chunks) == (True, None, CHUNKS)
    assert copied == list(range(LAYERS))
    assert retrieve_and_check(cache, namespace, chain).tokens == CHUNKS * 16
    assert queue.flush(WAIT_S)
    after = queue.stats
    assert after.stored_bytes - before.stored_bytes == PAYLOAD_BYTES
    assert after.stored_segments - before.stored_segments == 3  # of 4, 4 and 2 chunks
    assert after.staged_bytes == 0


def test_an_abandoned_step_is_never_visible(cache: KVCache, queue: StoreQueue) -> None:
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, CHUNKS)
    handle = queue.begin(namespace, chain, PART)
    assert handle is not None
    give(handle, chain)
    handle.abandon()
    handle.finish()
    assert handle.wait(WAIT_S)
    assert (handle.stored, handle.reason) == (False, Reason.ABANDONED)
    assert queue.flush(WAIT_S)
    assert cache.match(namespace, chain).tokens == 0
    again = queue.begin(namespace, chain, PART)
    assert again is not None
    give(again, chain)
    again.finish()
    assert again.wait(WAIT_S)
    assert retrieve_and_check(cache, namespace, chain).tokens == CHUNKS * 16


def test_parts_of_one_step_become_visible_together(cache: KVCache, queue: StoreQueue) -> None:
    namespace = new_namespace(two_shards())
    chain = prompt(namespace, CHUNKS)
    parts = [PartId(0, 0), PartId(0, 1)]
    handles = [queue.begin(namespace, chain, part) for part in parts]
    begun = [handle for handle in handles if handle is not None]
    assert len(begun) == 2
    for handle, part in zip(begun, parts, strict=True):
        assert give(handle, chain, part)
    queue.finish(begun)
    assert all(handle.wait(WAIT_S) and handle.stored for handle in begun)
    assert retrieve_and_check(cache, namespace, chain).tokens == CHUNKS * 16


def test_a_part_that_is_dropped_takes_its_partners_along(cache: KVCache, queue: StoreQueue) -> None:
    namespace = new_namespace(two_shards())
    chain = prompt(namespace, CHUNKS)
    whole, broken = queue.begin(namespace, chain, PartId(0, 0)), queue.begin(namespace, chain, PartId(0, 1))
    assert whole is not None
    assert broken is not None
    give(whole, chain, PartId(0, 0))
    give(broken, chain, PartId(0, 1), layers=[0, 1])  # one is missing
    queue.finish([whole, broken])
    assert whole.wait(WAIT_S)
    assert broken.wait(WAIT_S)
    assert (whole.reason, broken.reason) == (Reason.PARTNER, Reason.FAILED)
    assert "2 of 3 layers" in str(broken.error)
    assert queue.flush(WAIT_S)
    assert cache.match(namespace, chain, parts=[PartId(0, 0)]).tokens == 0


def test_only_what_is_missing_is_stored(cache: KVCache, queue: StoreQueue) -> None:
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, CHUNKS)
    store_parts(cache, namespace, chain[:6])
    handle = queue.begin(namespace, chain, PART, first=2)
    assert handle is not None
    give(handle, chain)
    handle.finish()
    assert handle.wait(WAIT_S)
    assert handle.stored_chunks == 4
    assert retrieve_and_check(cache, namespace, chain).tokens == CHUNKS * 16
    before = queue.stats.dropped.get(Reason.COVERED, 0)
    covered = queue.begin(namespace, chain, PART)
    assert covered is not None
    give(covered, chain)
    covered.finish()
    assert covered.wait(WAIT_S)
    assert covered.reason is Reason.COVERED
    assert not covered.reason.lost
    assert queue.stats.dropped[Reason.COVERED] == before + 1


def test_two_threads_that_store_the_same_prefix_store_it_once(cache: KVCache, queue: StoreQueue) -> None:
    namespace = new_namespace(LAYOUT)
    chain, branch = prompt(namespace, CHUNKS), prompt(namespace, CHUNKS, seed=1, shared=6)
    declined: list[Reason] = []
    before = queue.stats.stored_bytes
    together = threading.Barrier(3)

    def engine(mine: objectcache.keys.KeyChain) -> None:
        together.wait()
        handle = queue.begin(namespace, mine, PART, on_declined=declined.append)
        together.wait()  # all have begun before any ends
        if handle is not None:
            give(handle, mine)
            handle.finish()

    threads = [threading.Thread(target=engine, args=(mine,)) for mine in (chain, chain, branch)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert queue.flush(WAIT_S)
    assert declined == [Reason.IN_FLIGHT]
    assert queue.stats.stored_bytes - before == PAYLOAD_BYTES * (CHUNKS + 4) // CHUNKS
    for mine in (chain, branch):
        assert retrieve_and_check(cache, namespace, mine).tokens == CHUNKS * 16


def test_two_queues_may_store_the_same(cache: KVCache, queue: StoreQueue) -> None:
    """As two engines do: the second finds it covered, or makes a duplicate. Neither is dropped as lost."""
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, CHUNKS)
    with StoreQueue(cache, OPTIONS) as other:
        handles = [each.begin(namespace, chain, PART) for each in (queue, other)]
        for handle in handles:
            assert handle is not None
            give(handle, chain)
        for handle in handles:
            assert handle is not None
            handle.finish()
            assert handle.wait(WAIT_S)
            assert handle.reason in (None, Reason.COVERED)
    assert retrieve_and_check(cache, namespace, chain).tokens == CHUNKS * 16


def test_chunks_that_a_chain_does_not_have(queue: StoreQueue) -> None:
    namespace = new_namespace(LAYOUT)
    with pytest.raises(LayoutError):
        queue.begin(namespace, prompt(namespace, 4), PART, stop=5)


def test_a_store_in_memory_cannot_be_written_from_a_process() -> None:
    with objectcache.open("memory://storing-elsewhere") as cache, pytest.raises(ConfigError, match="own process"):
        StoreQueue(cache, replace(OPTIONS, writer="process"))


def test_what_is_on_disk_of_an_abandoned_step_is_gone(tmp_path: Path) -> None:
    with objectcache.open(f"file://{tmp_path}/kv") as cache, StoreQueue(cache, OPTIONS) as queue:
        namespace = new_namespace(LAYOUT)
        chain = prompt(namespace, CHUNKS)
        handle = queue.begin(namespace, chain, PART)
        assert handle is not None
        handle.layer(0, layer_of(chain, 0, 0, CHUNKS))
        handle.abandon()
        assert queue.flush(WAIT_S)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size > LAYERS * CHUNKS * 1000]
    assert [path for path in files if "catalog" not in str(path)] == []
