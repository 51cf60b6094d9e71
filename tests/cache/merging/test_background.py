"""Merging by a thread of the process that uses the cache."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

import objectcache
from objectcache.cache.local import LocalCache
from objectcache.cache.merging.background import BackgroundMerging
from objectcache.errors import StoreUnavailableError
from objectcache.names import SEGMENT_PREFIX
from objectcache.testing.far import LatencyStore
from tests.cache.merging.worlds import World, visible
from tests.gateway.process import eventually

TURNS = 8
merging = partial(BackgroundMerging, is_busy=lambda: False, interval_s=0.01)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path, stack)


def test_what_is_read_is_merged_beside_it(world: World) -> None:
    cache = world.open()
    chain = world.conversation(cache, TURNS)
    thread = merging(cache.core, 1e9)
    try:
        assert world.matched(cache, chain) == len(chain)
        eventually(lambda: len(visible(cache)) == 1, "it is merged")
        assert world.matched(cache, chain) == len(chain)
    finally:
        thread.stop()
    assert cache.merges.merged == 1


def test_the_end_does_not_wait_for_a_merge(world: World) -> None:
    cache = world.open()
    chain = world.conversation(cache, TURNS)
    assert world.matched(cache, chain) == len(chain)
    thread = merging(cache.core, 1000.0)  # the better part of a minute
    eventually(lambda: cache.core._room._reserved_bytes, "a merge is under way")
    began_s = time.monotonic()
    thread.stop()
    assert time.monotonic() - began_s < 20
    assert world.segments() == visible(cache)
    assert cache.core._room._reserved_bytes == 0
    assert cache.merges.failed == 0


def test_a_store_that_fails_is_left_alone_for_a_while(world: World) -> None:
    failing = threading.Event()

    def fail(what: str, name: str, offset: int) -> None:
        if failing.is_set() and what == "get" and name.startswith(SEGMENT_PREFIX):
            raise StoreUnavailableError("the store is away")

    cache = world.open(partial(LatencyStore, before=fail))
    chain = world.conversation(cache, TURNS)
    assert world.matched(cache, chain) == len(chain)
    failing.set()
    thread = merging(cache.core, 1e9)
    try:
        eventually(lambda: cache.merges.failed, "it has failed")
        failing.clear()
        assert world.matched(cache, chain) == len(chain)
        time.sleep(0.2)
        assert cache.merges.failed == 1
        assert cache.merges.merged == 0, "not for a minute"
    finally:
        thread.stop()


def test_it_is_asked_for_when_a_cache_is_opened(tmp_path: Path) -> None:
    def threads() -> int:
        return sum(thread.name == "merge" for thread in threading.enumerate())

    with objectcache.open(str(tmp_path), merge_bytes_s=1e6) as cache:
        assert isinstance(cache, LocalCache)
        assert threads() == 1
    with objectcache.open(str(tmp_path)):
        assert threads() == 0
