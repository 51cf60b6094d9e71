"""In-process use over a store that is far away."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from objectcache import logview
from objectcache.cache import KVCache
from objectcache.cache.core import CacheCore
from objectcache.cache.directory import open_beside, state_folder
from objectcache.cache.far_reading import REQUESTS_AT_ONCE
from objectcache.cache.local import LocalCache
from objectcache.cache.requests import FIRST_REQUESTS
from objectcache.errors import (
    IntegrityError,
    KeyNotFoundError,
    StoreUnavailableError,
)
from objectcache.names import SNAPSHOT_PREFIX
from objectcache.stores import MemoryStore
from objectcache.testing.caches import CacheContract
from objectcache.testing.far import LatencyStore
from objectcache.testing.synthetic import (
    FIRST,
    LAYERWISE,
    check_delivery,
    check_layer,
    flat_layout,
    new_namespace,
    prompt,
    retrieve_and_check,
    store_parts,
)
from tests.cache.far import CHUNKS, LAYERS, World
from tests.gateway.process import eventually


class TestFar(CacheContract):
    @pytest.fixture(autouse=True)
    def use(self, tmp_path: Path) -> None:
        self.objects = MemoryStore(1 << 30)
        self.folder = tmp_path

    def open_cache(self, *, buffer_bytes: int = 1 << 30) -> KVCache:
        return LocalCache(open_beside(LatencyStore(self.objects, 0.002), self.folder), buffer_bytes=buffer_bytes)

    def restart(self) -> None:
        """Nothing runs between two openings."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    with world.cache:
        yield world


def test_requests_are_few(world: World) -> None:
    assert world.counted() == {"list": 2}, "snapshots and logs, of which there are none"
    store_parts(world.cache, world.namespace, world.chain[:4])
    assert world.counted() == {"put": 3, "list": 2}, "namespace, segment, record; where the own log ends"
    store_parts(world.cache, world.namespace, prompt(world.namespace, CHUNKS, seed=1))
    assert world.counted() == {"put": 2}
    world.cache.match(world.namespace, world.chain)
    assert world.cache.store(world.namespace, world.chain, FIRST, stop=4) is None
    assert world.counted() == {}
    retrieve_and_check(world.cache, world.namespace, world.chain)
    assert world.counted() == {"get": 1}, "768 KiB of one segment, in six layers"
    world.cache.core.follow()
    assert world.counted() == {"list": 1}


def test_another_process_reads_what_it_does_not_know_at_once(world: World, tmp_path: Path) -> None:
    for seed in range(20):
        store_parts(world.cache, world.namespace, prompt(world.namespace, 1, seed=seed))
    other = LatencyStore(world.objects, 0.05)
    with LocalCache(CacheCore.open(other, tmp_path / "other")) as cache:
        assert other.request_counts() == {"list": 2, "get": 21}, "records, and the namespace"
        assert other.most_at_once > 8
        assert retrieve_and_check(cache, world.namespace, prompt(world.namespace, 1, seed=19)).tokens == 16


def test_logs_of_more_records_than_a_page_are_listed_by_writer(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(logview, "_FLAT_RECORDS", 5)
    for seed in range(8):
        store_parts(world.cache, world.namespace, prompt(world.namespace, 1, seed=seed))
    with LocalCache(CacheCore.open(LatencyStore(world.objects), tmp_path / "other")) as other:
        store_parts(world.cache, world.namespace, prompt(world.namespace, 1, seed=8))
        before = dict(other.request_counts())
        other.core.follow()
        assert other.request_counts()["list"] - before["list"] == 2, "writers, and the one log"
        for seed in range(9):
            assert retrieve_and_check(other, world.namespace, prompt(world.namespace, 1, seed=seed)).tokens == 16


def test_a_snapshot_that_takes_long_keeps_nobody(world: World, tmp_path: Path) -> None:
    go_on = threading.Event()

    def hold(kind: str, name: str, offset: int) -> None:
        if name.startswith(SNAPSHOT_PREFIX) and kind == "put":
            go_on.wait(30)

    world.store.before = hold
    world.cache.core.journal.snapshot_every_records = 3
    for seed in range(8):
        store_parts(world.cache, world.namespace, prompt(world.namespace, 1, seed=seed))
        world.cache.core.follow()
    assert not list(world.objects.list(SNAPSHOT_PREFIX))
    go_on.set()
    eventually(lambda: len(list(world.objects.list(SNAPSHOT_PREFIX))) == 1, "the snapshot is there")
    with LocalCache(CacheCore.open(LatencyStore(world.objects), tmp_path / "other")) as other:
        for seed in range(8):
            assert retrieve_and_check(other, world.namespace, prompt(world.namespace, 1, seed=seed)).tokens == 16


def test_a_segment_that_is_gone_is_a_miss_and_forgotten(world: World) -> None:
    store_parts(world.cache, world.namespace, world.chain)
    match = world.cache.match(world.namespace, world.chain)
    world.store.delete(world.segment())
    with world.cache.retrieve(match, options=LAYERWISE) as retrieval, pytest.raises(KeyNotFoundError):
        retrieval.wait(LAYERS - 1)
    eventually(lambda: not world.cache.match(world.namespace, world.chain).tokens, "the segment is forgotten")
    world.cache.release(match)
    eventually(lambda: not world.cache.pool.usage().quarantined_bytes, "its task is over")


@pytest.mark.parametrize("layer", range(LAYERS))
@pytest.mark.parametrize("where", ["piece digest", "slice digest that is not needed", "slice"])
def test_a_damaged_byte_is_an_error_of_its_layer_and_a_miss(world: World, layer: int, where: str) -> None:
    (ticket,) = store_parts(world.cache, world.namespace, world.chain)
    match = world.cache.match(world.namespace, world.chain)
    geometry = ticket.header.geometry
    at = {
        "piece digest": geometry.row_offset(layer),
        "slice digest that is not needed": geometry.slice_offset(layer, 0) - 1,
        "slice": geometry.slice_offset(layer, CHUNKS - 1),
    }[where]
    data = bytearray(world.objects.get(world.segment()))
    data[at] ^= 1
    world.objects.put(world.segment(), data)
    with world.cache.retrieve(match, options=LAYERWISE) as retrieval:
        with pytest.raises(IntegrityError):
            retrieval.wait(layer)
        for landed in range(LAYERS):
            if retrieval.landed_s(landed) is not None:
                check_layer(retrieval, match.parts, landed)
    eventually(lambda: not world.cache.match(world.namespace, world.chain).tokens, "the segment is forgotten")


def test_a_store_that_breaks_is_not_a_segment_that_is_gone(world: World) -> None:
    store_parts(world.cache, world.namespace, world.chain)
    match = world.cache.match(world.namespace, world.chain)

    def broken(kind: str, name: str, offset: int) -> None:
        raise StoreUnavailableError("away")

    world.store.before = broken
    with world.cache.retrieve(match, options=LAYERWISE) as retrieval, pytest.raises(StoreUnavailableError):
        retrieval.wait(0)
    world.store.before = lambda kind, name, offset: None
    assert retrieve_and_check(world.cache, world.namespace, world.chain).tokens == CHUNKS * 16


def test_a_long_prefix_takes_a_few_latencies(world: World) -> None:
    """32 layers of 4 MiB, 100 ms away: one by one they would take three seconds."""
    world.namespace = new_namespace(flat_layout(32, 256 << 10))
    chain = prompt(world.namespace, 16)
    store_parts(world.cache, world.namespace, chain, cuts=[5])
    match = world.cache.match(world.namespace, chain)
    requests = world.requests(match)
    later = len(requests) - FIRST_REQUESTS
    assert 1 + -(-later // REQUESTS_AT_ONCE) <= 3
    world.store.most_at_once = 0
    world.store.latency_s = 0.1
    world.counted()
    with world.cache.retrieve(match, options=LAYERWISE) as retrieval:
        check_delivery(retrieval, match)
    assert world.counted() == {"get": len(requests)}
    assert FIRST_REQUESTS <= world.store.most_at_once <= REQUESTS_AT_ONCE


def test_state_is_in_a_folder_of_each_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    one = state_folder("s3://bucket/one")
    assert one.parent == tmp_path / "cache" / "objectcache"
    assert one != state_folder("s3://bucket/two")
    assert state_folder("s3://bucket/one", tmp_path) == tmp_path / one.name
    for none in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", none)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        assert state_folder("s3://bucket/one") == tmp_path / "home" / ".cache" / "objectcache" / one.name
