"""Ranges, what is read ahead, and the guess where an object is."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from objectcache.errors import ObjectChangedError, ObjectNotFoundError
from tests.gateway.process import eventually
from tests.stores_rados.conftest import OpenStore

STRIPE_BYTES = 64 << 10
DATA = os.urandom(10 * STRIPE_BYTES + 1000)


def counted(counts: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    """But for `list`, which a sweep in the background does too."""
    return {
        kind: counts[kind] - before.get(kind, 0)
        for kind in counts
        if counts[kind] != before.get(kind, 0) and kind != "list"
    }


def test_a_new_object_is_read_without_asking_where_it_is_first(open_rados: OpenStore) -> None:
    store = open_rados(stripe_bytes=STRIPE_BYTES)
    store.put("a", DATA, if_absent=True)
    before = store.request_counts()
    with store.open("a", size_bytes=len(DATA)) as reader:
        assert reader.read(STRIPE_BYTES + 5, 100) == DATA[STRIPE_BYTES + 5 : STRIPE_BYTES + 105]
        assert counted(store.request_counts(), before) == {"head": 1, "get": 1}
        assert reader.read(0, len(DATA)) == DATA
        assert counted(store.request_counts(), before) == {"head": 1, "get": 12}


@pytest.mark.parametrize("ahead", [False, True])
def test_a_wrong_guess_costs_a_request(open_rados: OpenStore, ahead: bool) -> None:
    store = open_rados(stripe_bytes=STRIPE_BYTES)
    other = open_rados(stripe_bytes=STRIPE_BYTES // 3)
    store.put("replaced", b"x" * len(DATA), if_absent=True)
    store.put("replaced", DATA)
    other.put("cut otherwise", DATA, if_absent=True)
    for name in (
        "replaced",
        "cut otherwise",
    ) * 8:  # what is known when the second piece is asked for is a matter of luck
        with store.open(name, size_bytes=len(DATA)) as reader:
            if ahead:
                reader.prefetch(0, len(DATA))
            assert b"".join(reader.pieces(0, len(DATA))) == DATA


def test_what_is_read_ahead_is_read_once(open_rados: OpenStore) -> None:
    store = open_rados(stripe_bytes=STRIPE_BYTES)
    store.put("a", DATA, if_absent=True)
    before = store.request_counts()
    with store.open("a", size_bytes=len(DATA)) as reader:
        reader.prefetch(0, len(DATA))
        assert reader.read(0, len(DATA)) == DATA
    assert counted(store.request_counts(), before) == {"head": 1, "get": 11}


def test_more_ahead_than_may_be_under_way_is_left_out(open_rados: OpenStore) -> None:
    store = open_rados(stripe_bytes=STRIPE_BYTES, depth=2)
    store.put("a", DATA)
    with store.open("a") as one, store.open("a") as other, ThreadPoolExecutor(4) as threads:
        for reader in (one, other):
            reader.prefetch(0, len(DATA))
        for read in [threads.submit(reader.read, 0, len(DATA)) for reader in (one, other, one, other)]:
            assert read.result(30) == DATA


def test_another_size_is_another_object(open_rados: OpenStore) -> None:
    store = open_rados()
    store.put("a", DATA, if_absent=True)
    with store.open("a", size_bytes=len(DATA) - 1) as reader, pytest.raises(ObjectChangedError):
        reader.read(0, 10)


def test_small_objects_are_one_request_each_way(open_rados: OpenStore) -> None:
    store = open_rados()
    before = store.request_counts()
    store.put("a", b"x" * 4096)
    assert counted(store.request_counts(), before) == {"put": 1}
    before = store.request_counts()
    assert store.get("a") == b"x" * 4096
    assert counted(store.request_counts(), before) == {"head": 1}


def test_readers_leave_nothing_behind(open_rados: OpenStore) -> None:
    store = open_rados(stripe_bytes=STRIPE_BYTES)
    store.put("a", DATA, if_absent=True)
    handle = store._pool.handle()

    def read(number: int) -> None:
        with store.open("a", size_bytes=len(DATA)) as reader:
            reader.prefetch(0, len(DATA))
            reader.read(number * 1000, 1000)
        with store.open("b", size_bytes=10) as reader, pytest.raises(ObjectNotFoundError):
            reader.read(0, 1)

    def descriptors() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), len(list(Path("/proc/self/task").iterdir()))

    with ThreadPoolExecutor(4, initializer=Barrier(4).wait) as threads:
        list(threads.map(read, range(4)))  # each by a thread of its own, or there were more of them later
        before = descriptors()
        list(threads.map(read, range(500)))
        after = descriptors()
    assert (after[0] <= before[0], after[1] <= before[1]) == (True, True), "connections that were idle may have ended"
    # What was read ahead and not waited for may still be on its way when its reader is closed.
    eventually(lambda: handle.data.complete_completions == [], "requests are over")
    assert store._fetching.budget.free_bytes == 256 << 20
    held = [handle.depth.acquire(timeout=10) for _ in range(32)]
    assert all(held)
    for _ in held:
        handle.depth.release()
