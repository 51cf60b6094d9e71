"""The cache in this process over a read cache: a store that is far, with copies on a disk that may fail."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from objectcache.cache import KVCache, Match
from objectcache.cache.core import CacheCore
from objectcache.cache.local import LocalCache
from objectcache.errors import IntegrityError, KeyNotFoundError, StoreUnavailableError
from objectcache.names import SEGMENT_PREFIX
from objectcache.stores import FileStore, ReadCache
from objectcache.testing.caches import CacheContract
from objectcache.testing.synthetic import flat_layout, new_namespace, prompt, retrieve_and_check, store_parts
from tests.gateway.process import eventually
from tests.stores.counting import CountingStore

LAYERS, CHUNKS, SLICE_BYTES = 6, 8, 32 << 10
EXTENT_BYTES = 100_000


class TestLocalOverReadCache(CacheContract):
    @pytest.fixture(autouse=True)
    def use(self, tmp_path: Path) -> None:
        self.root = tmp_path
        self.catalogs = count()

    def open_cache(self, *, buffer_bytes: int = 1 << 30) -> KVCache:
        store = ReadCache(
            FileStore(self.root / "origin"), self.root / "cache", limit_bytes=5 << 20, extent_bytes=EXTENT_BYTES
        )
        return LocalCache(
            CacheCore.open(store, self.root / f"catalog-{next(self.catalogs)}"), buffer_bytes=buffer_bytes
        )

    def restart(self) -> None:
        """Nothing runs between two openings."""


class World:
    """A match of one segment, of which nothing is cached yet."""

    def __init__(self, root: Path) -> None:
        self.root = root / "cache"
        self.origin = FileStore(root / "origin")
        self.counting = CountingStore(self.origin)
        self.store = ReadCache(self.counting, self.root, limit_bytes=1 << 30, extent_bytes=EXTENT_BYTES)
        self.cache = LocalCache(CacheCore.open(self.store, root / "catalog"), buffer_bytes=1 << 30)
        self.namespace = new_namespace(flat_layout(LAYERS, SLICE_BYTES))
        store_parts(self.cache, self.namespace, self.chain)
        (info,) = self.origin.list(SEGMENT_PREFIX)
        self.segment, self.size_bytes = info.name, info.size_bytes

    @property
    def chain(self):  # type: ignore[no-untyped-def]
        return prompt(self.namespace, CHUNKS)

    @property
    def forgotten(self) -> int:
        return self.cache.core.counters.forgotten

    def retrieve(self) -> Match:
        return retrieve_and_check(self.cache, self.namespace, self.chain)

    def is_read(self) -> bool:
        try:
            return self.retrieve().tokens > 0
        except IntegrityError:  # its check runs beside the next retrieval
            return False

    def damage(self) -> None:
        """All extents, throughout."""
        for path in (self.root / "extents").rglob("*-*"):
            path.write_bytes(os.urandom(path.stat().st_size))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.cache.close()
    made.origin.close()


def test_a_second_retrieval_asks_the_store_for_nothing(world: World) -> None:
    assert world.retrieve().tokens
    fetched = list(world.counting.reads)
    assert len(set(fetched)) == len(fetched) > 10
    assert world.retrieve().tokens
    assert world.counting.reads == fetched


def test_a_segment_that_is_gone_is_absent_once_and_then_a_miss(world: World) -> None:
    world.origin.delete(world.segment)
    with pytest.raises(KeyNotFoundError):
        world.retrieve()
    eventually(lambda: world.forgotten == 1, "it is forgotten")
    assert world.cache.match(world.namespace, world.chain).tokens == 0


def test_a_damaged_copy_costs_one_retrieval_and_no_segment(world: World) -> None:
    assert world.retrieve().tokens
    world.damage()
    with pytest.raises(IntegrityError):
        world.retrieve()
    eventually(world.is_read, "the segment itself is read")
    assert world.forgotten == 0
    assert world.store.get(world.segment) == world.origin.get(world.segment)


def test_a_damaged_segment_is_forgotten(world: World) -> None:
    world.origin.put(world.segment, bytes(world.size_bytes))
    with pytest.raises(IntegrityError):
        world.retrieve()
    eventually(lambda: world.forgotten == 1, "it is forgotten")
    eventually(lambda: list(world.origin.list(SEGMENT_PREFIX)) == [], "it is deleted")


def test_damage_that_cannot_be_checked_forgets_nothing(world: World) -> None:
    assert world.retrieve().tokens
    world.damage()
    world.counting.fault = lambda name, offset: StoreUnavailableError("down")
    with pytest.raises((IntegrityError, StoreUnavailableError)):
        world.retrieve()
    world.counting.fault = lambda name, offset: None
    eventually(world.is_read, "the segment itself is read")
    assert world.forgotten == 0
