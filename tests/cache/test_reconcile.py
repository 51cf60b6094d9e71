"""Segments that nobody committed, entries without a segment, and clocks that differ."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from objectcache.cache.directory import open_beside
from objectcache.cache.local import LocalCache
from objectcache.errors import KeyNotFoundError
from objectcache.keys import Namespace
from objectcache.names import LOG_PREFIX, SEGMENT_PREFIX
from objectcache.stores import MemoryStore, ObjectInfo
from objectcache.testing.far import LatencyStore
from objectcache.testing.synthetic import (
    FIRST,
    LAYERWISE,
    flat_layout,
    new_namespace,
    prompt,
    retrieve_and_check,
    store_parts,
    upload_part,
)

LAYOUT = flat_layout(2, 1000)
HOUR_S = 3600.0


class World:
    """Caches over one store, each of which sees it through a wrapper of its own."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.objects = MemoryStore(1 << 30)
        self._folder, self._stack = folder, stack
        self.namespace: Namespace = new_namespace(LAYOUT)

    def open(self, *, skew_s: float = 0.0) -> tuple[LocalCache, LatencyStore]:
        store = LatencyStore(self.objects, skew_s=skew_s)
        cache = LocalCache(open_beside(store, self._folder))
        self._stack.enter_context(cache)
        return cache, store

    def segments(self) -> list[str]:
        return [info.name for info in self.objects.list(SEGMENT_PREFIX)]

    def matched(self, cache: LocalCache, length: int, seed: int = 0) -> int:
        return retrieve_and_check(cache, self.namespace, prompt(self.namespace, length, seed=seed)).tokens // 16


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path, stack)


def test_segments_that_a_lifecycle_rule_took_are_forgotten_by_all(world: World) -> None:
    (a, _), (b, _) = world.open(), world.open()
    store_parts(a, world.namespace, prompt(world.namespace, 4), cuts=[2])
    store_parts(a, world.namespace, prompt(world.namespace, 4, seed=1))
    b.core.follow()
    gone = world.segments()[1:]
    for name in gone:
        world.objects.delete(name)
    found = a.core.reconcile(vanished_after_s=0.0)
    assert (found.orphans, found.vanished) == ([], []), "they were committed since the last listing"
    records = len(list(world.objects.list(LOG_PREFIX)))
    assert a.core.reconcile(vanished_after_s=0.0).vanished == gone
    assert a.core.counters.vanished == 2
    b.core.follow()
    assert b.core.reconcile(vanished_after_s=0.0).vanished == [], "the log has said so already"
    assert len(list(world.objects.list(LOG_PREFIX))) == records + 1, "in one record"
    for cache in (a, b):
        assert world.matched(cache, 4) == 2
        assert world.matched(cache, 4, seed=1) == 0


def test_entries_are_not_doubted_before_their_time(world: World) -> None:
    cache, _ = world.open()
    store_parts(cache, world.namespace, prompt(world.namespace, 2))
    cache.core.reconcile()
    world.objects.delete(world.segments()[0])
    assert cache.core.reconcile(vanished_after_s=HOUR_S).vanished == []
    assert len(cache.core.reconcile(vanished_after_s=0.0).vanished) == 1


def test_a_listing_that_lacks_what_is_there_is_not_believed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, store = world.open()
    store_parts(cache, world.namespace, prompt(world.namespace, 2))
    cache.core.reconcile(vanished_after_s=0.0)
    real = store.list

    def lacking(prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        return iter(()) if prefix == SEGMENT_PREFIX else real(prefix, start_after=start_after)

    monkeypatch.setattr(store, "list", lacking)
    assert cache.core.reconcile(vanished_after_s=0.0).vanished == []
    assert world.matched(cache, 2) == 2


@pytest.mark.parametrize("skew_s", [-48 * HOUR_S, -90.0, 0.0, 90.0, 48 * HOUR_S])
def test_orphans_are_old_by_the_clock_of_the_store(world: World, skew_s: float) -> None:
    cache, _ = world.open(skew_s=skew_s)
    upload_part(cache, world.namespace, prompt(world.namespace, 2), FIRST)
    other, _ = world.open(skew_s=skew_s)
    time.sleep(0.02)
    assert other.core.reconcile().orphans == []
    assert len(world.segments()) == 1
    assert cache.core.reconcile(orphan_age_s=0.01).orphans == [], "its own uploads may yet be committed"
    assert len(other.core.reconcile(orphan_age_s=0.01).orphans) == 1
    assert world.segments() == []


def test_an_upload_that_is_committed_after_it_was_swept_is_a_miss(world: World) -> None:
    """Its process slept in between, and does not know."""
    (late, _), (other, _) = world.open(), world.open()
    chain = prompt(world.namespace, 4)
    store_parts(other, world.namespace, chain[:2])
    ticket = upload_part(late, world.namespace, chain, FIRST, first=2)
    time.sleep(0.02)
    assert other.core.reconcile(orphan_age_s=0.01).orphans == [ticket.header.name]
    late.commit([ticket])
    for cache in (late, other):
        cache.core.follow()
        match = cache.match(world.namespace, chain)
        if match.tokens == 64:  # the first to ask finds out
            with cache.retrieve(match, options=LAYERWISE) as retrieval, pytest.raises(KeyNotFoundError):
                retrieval.wait(1)
            cache.release(match)
            until_s = time.monotonic() + 10.0
            while world.matched(cache, 2) and cache.core.catalog.segment_named(ticket.header.name) is not None:
                assert time.monotonic() < until_s
    other.core.follow()
    for cache in (late, other):
        assert world.matched(cache, 4) == 2


def test_what_is_not_a_segment_is_left_alone(world: World) -> None:
    cache, _ = world.open()
    world.objects.put(SEGMENT_PREFIX + "somebody's file", b"not ours")
    time.sleep(0.02)
    assert cache.core.reconcile(orphan_age_s=0.01).orphans == []


def test_reconciling_a_store_without_anything_odd_is_two_listings(world: World) -> None:
    cache, store = world.open()
    store_parts(cache, world.namespace, prompt(world.namespace, 2))
    cache.core.following.stop()
    before = store.request_counts()
    cache.core.reconcile()
    after = store.request_counts()
    assert {kind: after[kind] - before.get(kind, 0) for kind in after if after[kind] != before.get(kind, 0)} == {
        "list": 2
    }
