"""The read cache: what it keeps, evicts and discards, and what uploads leave behind."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from objectcache.names import segment_name
from objectcache.stores.read_cache_extents import TOUCH_INTERVAL_S
from tests.stores.read_cache_world import DATA, EXTENT_BYTES, NAME, SIZE_BYTES, World, by_files

# -- keeping ------------------------------------------------------------------------------------------


def test_the_least_recently_used_extents_go(world: World) -> None:
    cache = world.cache(8 * EXTENT_BYTES)
    with cache.open(NAME, size_bytes=SIZE_BYTES) as reader:
        for index in range(8):
            reader.read(index * EXTENT_BYTES, 1)
        long_ago_s = time.time() - 1000
        for number, path in enumerate(sorted(world.extents().values(), key=lambda path: path.name)):
            os.utime(path, (long_ago_s + number, long_ago_s + number))
        reader.read(0, 1)  # it is touched by that
        reader.read(9 * EXTENT_BYTES, 1)
    kept = sorted(int(name.rpartition("-")[2], 16) for name in world.extents())
    assert kept == [0, 3, 4, 5, 6, 7, 9]
    assert cache.counters().evicted_extents == 2
    assert cache.cache_usage().used_bytes == world.held_bytes() == 7 * EXTENT_BYTES


def test_recency_is_refreshed_once_a_minute(world: World) -> None:
    with world.cache().open(NAME, size_bytes=SIZE_BYTES) as reader:
        reader.read(0, 1)
        (path,) = world.extents().values()
        for age_s, touched in ((TOUCH_INTERVAL_S - 20, False), (TOUCH_INTERVAL_S + 20, True)):
            then_s = time.time() - age_s
            os.utime(path, (then_s, then_s))
            reader.read(0, 1)
            assert (path.stat().st_mtime > then_s + 10) is touched


def test_an_eviction_does_not_hurt_a_running_read(world: World) -> None:
    other = segment_name("w", 2)
    world.origin.put(other, DATA)
    cache = world.cache(2 * EXTENT_BYTES)
    with cache.open(NAME, size_bytes=SIZE_BYTES) as reader, cache.open(other, size_bytes=SIZE_BYTES) as second:
        with reader.files(0, EXTENT_BYTES) as ranges:
            assert ranges is not None
            for index in range(10):
                second.read(index * EXTENT_BYTES, 1)
            assert len(world.extents()) <= 2
            (file,) = ranges
            assert os.pread(file.descriptor, file.length, file.offset) == DATA[:EXTENT_BYTES]
        assert by_files(reader, 0, 100) == DATA[:100]


def test_many_threads_stay_within_the_limit(world: World) -> None:
    limit_bytes = 6 * EXTENT_BYTES + 50
    cache = world.cache(limit_bytes)
    stop, worst = threading.Event(), [0]

    def watch() -> None:
        while not stop.is_set():
            held_bytes = 0
            for path in list(world.root.rglob("*")):
                try:
                    if path.parent.name != "cache" and path.is_file() and path.stat().st_nlink == 1:
                        held_bytes += path.stat().st_blocks * 512
                except FileNotFoundError:
                    continue
            worst[0] = max(worst[0], held_bytes)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(8) as threads, cache.open(NAME, size_bytes=SIZE_BYTES) as reader:
        offsets = np.random.default_rng(3).integers(0, SIZE_BYTES - 5000, 300).tolist()
        for offset, read in zip(offsets, threads.map(lambda at: reader.read(at, 5000), offsets), strict=True):
            assert read == DATA[offset : offset + 5000]
    stop.set()
    watcher.join()
    assert cache.cache_usage().used_bytes == world.held_bytes() <= limit_bytes
    assert os.listdir(world.root / "tmp") == []


def test_a_limit_below_an_extent_keeps_nothing(world: World) -> None:
    cache = world.cache(EXTENT_BYTES - 1)
    with cache.open(NAME, size_bytes=SIZE_BYTES) as reader:
        assert by_files(reader, 0, 10) is None
        assert reader.read(0, 10) == DATA[:10]
        assert world.counting.reads == [(NAME, 0, 10)], "no more than what was asked for"
        assert by_files(reader, 10 * EXTENT_BYTES, 100) == DATA[-100:], "the last one is shorter"


# -- damage -------------------------------------------------------------------------------------------


def test_discarding_an_object_reads_it_anew(world: World) -> None:
    cache = world.cache()
    other = segment_name("w", 2)
    world.origin.put(other, DATA)
    with cache.open(NAME, size_bytes=SIZE_BYTES) as reader, world.cache().open(NAME) as elsewhere:
        cache.open(other).read(0, 1)
        reader.read(0, SIZE_BYTES)
        for path in world.extents().values():
            path.write_bytes(bytes(path.stat().st_size))
        assert elsewhere.read(5, 5) == bytes(5)
        cache.discard(NAME)
        cache.discard(NAME)
        assert elsewhere.read(5, 5) == DATA[5:10]
        assert reader.read(0, SIZE_BYTES) == DATA
    assert cache.cache_usage().used_bytes == SIZE_BYTES + EXTENT_BYTES
    assert list(world.root.glob("extents/*/*")) != []


@pytest.mark.parametrize("size_bytes", [0, 100, EXTENT_BYTES + 1])
def test_an_extent_of_another_size_is_fetched_again(world: World, size_bytes: int) -> None:
    cache = world.cache()
    with cache.open(NAME, size_bytes=SIZE_BYTES) as reader:
        reader.read(0, 1)
        (path,) = world.extents().values()
        os.truncate(path, size_bytes)
        assert by_files(reader, 0, 200) == DATA[:200]
        assert path.stat().st_size == EXTENT_BYTES
    assert cache.cache_usage().used_bytes >= EXTENT_BYTES


def test_deleting_and_writing_an_object_drops_its_extents(world: World) -> None:
    cache = world.cache()
    for change in (lambda: cache.delete(NAME), lambda: cache.put(NAME, DATA[::-1])):
        world.origin.put(NAME, DATA)
        assert cache.get(NAME) == DATA
        change()
        assert world.extents() == {}
    assert cache.get(NAME) == DATA[::-1]
    assert cache.cache_usage().used_bytes == SIZE_BYTES


# -- writing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit_bytes", [1 << 30, 3 * EXTENT_BYTES])
def test_filling_on_write(world: World, limit_bytes: int) -> None:
    cache = world.cache(limit_bytes, fill_on_write=True)
    name = segment_name("w", 2)
    with cache.upload(name, size_bytes=SIZE_BYTES + 5) as upload:
        for at in range(0, SIZE_BYTES, 777):
            upload.write(DATA[at : at + 777])
        assert world.extents() == {}
        upload.publish()
    if limit_bytes >= SIZE_BYTES:
        assert len(world.extents()) == 11
    with cache.open(name, size_bytes=SIZE_BYTES) as reader:
        assert reader.read(0, SIZE_BYTES) == DATA
    assert bool(world.counting.reads) is (limit_bytes < SIZE_BYTES)
    assert cache.cache_usage().used_bytes == world.held_bytes() <= limit_bytes


def test_an_upload_that_is_given_up_leaves_nothing(world: World) -> None:
    cache = world.cache(fill_on_write=True)
    with cache.upload(segment_name("w", 2)) as upload:
        upload.write(DATA)
    assert world.held_bytes() == cache.cache_usage().used_bytes == 0
