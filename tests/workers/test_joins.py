"""Joining in a data worker, and what it fetched of a store that is far away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from objectcache.joining import JoinStoppedError
from objectcache.names import segment_name
from objectcache.stores import MemoryStore, ReadCache
from objectcache.testing.far import LatencyStore
from objectcache.workers.fetched import Fetched
from objectcache.workers.joins import Joins
from tests.joining.test_join import Whole


def test_an_order_as_it_comes_over_the_wire() -> None:
    whole = Whole([2, 4], 6, [1000])
    joined = Joins(lambda: True).run(whole.store, {"order": whole.order.to_wire(), "bytes_s": 0})
    assert joined.header == whole.header
    assert whole.store.get(whole.order.name) == whole.data


def test_a_worker_that_drains_joins_nothing_any_more() -> None:
    whole = Whole([2, 4], 6, [1000])
    joins = Joins(lambda: False)
    joins.stop()
    with pytest.raises(JoinStoppedError):
        joins.run(whole.store, {"order": whole.order.to_wire(), "bytes_s": 0})
    assert whole.order.name not in {info.name for info in whole.store.list()}


@contextmanager
def read_cache(folder: Path, name: str) -> Iterator[ReadCache]:
    """Over a store with one object of 10,000 bytes, in extents of 4,000."""
    behind = MemoryStore(1 << 20)
    behind.put(name, bytes(10_000))
    with ReadCache(LatencyStore(behind), folder, limit_bytes=1 << 20, extent_bytes=4000) as store:
        yield store


def test_what_was_fetched_is_told_once(tmp_path: Path) -> None:
    fetched, name = Fetched(), segment_name("w", 1)
    assert fetched.since_last(MemoryStore(1 << 20)) == 0
    with read_cache(tmp_path / "one", name) as store, store.open(name, size_bytes=10_000) as reader:
        assert fetched.since_last(store) == 0
        reader.read(100, 10)
        assert fetched.since_last(store) == 4000, "a whole extent"
        reader.read(100, 10)
        assert fetched.since_last(store) == 0
        reader.read(3000, 7000)
        assert fetched.since_last(store) == 6000
    with read_cache(tmp_path / "one", name) as store:
        assert fetched.since_last(store) == 0, "opened anew, it counts from 0 on"
