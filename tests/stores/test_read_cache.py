"""The read cache: what it fetches, keeps, evicts and discards."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from objectcache.errors import ConfigError, ObjectNotFoundError, StoreUnavailableError
from objectcache.names import log_name, segment_name
from objectcache.stores import FileStore, MemoryStore, ObjectReader, ReadCache, open_store
from objectcache.stores.read_cache_extents import TOUCH_INTERVAL_S
from objectcache.stores.read_cache_reader import AT_ONCE
from tests.stores.counting import CountingStore

EXTENT_BYTES = 4096
SIZE_BYTES = 10 * EXTENT_BYTES + 100
NAME = segment_name("w", 1)
DATA = np.random.default_rng(1).bytes(SIZE_BYTES)
PATIENCE_S = 20.0


class World:
    """A read cache in front of a counting store that holds DATA as NAME."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.origin = MemoryStore()
        self.origin.put(NAME, DATA)
        self.counting = CountingStore(self.origin)
        self.caches: list[ReadCache] = []

    def cache(self, limit_bytes: int = 1 << 30, *, fill_on_write: bool = False) -> ReadCache:
        cache = ReadCache(
            self.counting,
            self.root,
            limit_bytes=limit_bytes,
            extent_bytes=EXTENT_BYTES,
            fill_on_write=fill_on_write,
        )
        self.caches.append(cache)
        return cache

    def extents(self) -> dict[str, Path]:
        """By their paths, which end in "-<index>"."""
        return {str(path): path for path in (self.root / "extents").rglob("*") if path.is_file()}

    def held_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.root.rglob("*") if path.is_file() and path.name != "used")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "cache")
    yield made
    for cache in made.caches:
        cache.close()


def by_files(reader: ObjectReader, offset: int, length: int) -> bytes | None:
    with reader.files(offset, length) as ranges:
        if ranges is None:
            return None
        return b"".join(os.pread(file.descriptor, file.length, file.offset) for file in ranges)


def eventually(condition: Callable[[], bool]) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.002)


# -- fetching -----------------------------------------------------------------------------------------


def test_extents_are_fetched_once_and_read_from_files(world: World) -> None:
    cache = world.cache()
    with cache.open(NAME, size_bytes=SIZE_BYTES) as reader:
        assert by_files(reader, 4000, 5000) == DATA[4000:9000]
        assert by_files(reader, SIZE_BYTES - 50, 50) == DATA[-50:]
        assert reader.read(4500, 10) == DATA[4500:4510]
    assert sorted(world.counting.reads) == [
        (NAME, 0, EXTENT_BYTES),
        (NAME, EXTENT_BYTES, EXTENT_BYTES),
        (NAME, 2 * EXTENT_BYTES, EXTENT_BYTES),
        (NAME, 10 * EXTENT_BYTES, 100),
    ]
    assert len(world.counting.opens) == 1
    counters = cache.counters()
    assert (counters.hits, counters.misses) == (1, 4)
    assert counters.fetched_bytes == cache.cache_usage().used_bytes == 3 * EXTENT_BYTES + 100


def test_what_is_cached_needs_no_store(world: World) -> None:
    with world.cache().open(NAME, size_bytes=SIZE_BYTES) as reader:
        reader.read(0, SIZE_BYTES)
    world.origin.delete(NAME)
    world.counting.opens.clear()
    with world.cache().open(NAME, size_bytes=SIZE_BYTES) as reader:
        assert reader.read(0, SIZE_BYTES) == DATA
        assert by_files(reader, 5, SIZE_BYTES - 5) == DATA[5:]
    assert world.counting.opens == []


def test_an_object_that_is_gone_and_not_cached(world: World) -> None:
    cache = world.cache()
    gone = segment_name("w", 2)
    with cache.open(gone, size_bytes=10) as reader:
        for _ in range(2):
            with pytest.raises(ObjectNotFoundError):
                reader.read(0, 10)
            with pytest.raises(ObjectNotFoundError), reader.files(0, 10):
                pass
    assert cache.cache_usage().used_bytes == 0


def test_failed_fetches_leave_nothing_and_are_tried_again(world: World) -> None:
    cache = world.cache()
    world.counting.fault = lambda name, offset: StoreUnavailableError("down") if offset else None
    with cache.open(NAME, size_bytes=SIZE_BYTES) as reader:
        reader.prefetch(0, SIZE_BYTES)
        with pytest.raises(StoreUnavailableError):
            reader.read(0, SIZE_BYTES)
        eventually(lambda: world.counting.at_once == 0)
        assert reader.read(0, 10) == DATA[:10]
        world.counting.fault = lambda name, offset: None
        assert reader.read(0, SIZE_BYTES) == DATA
    assert os.listdir(world.root / "tmp") == []
    assert cache.cache_usage().used_bytes == SIZE_BYTES


def test_missing_extents_of_a_read_are_fetched_at_once(world: World) -> None:
    cache = world.cache()
    world.counting.gate.clear()
    with cache.open(NAME, size_bytes=SIZE_BYTES) as reader, ThreadPoolExecutor(1) as thread:
        read = thread.submit(reader.read, 0, SIZE_BYTES)
        eventually(lambda: world.counting.at_once == 11)
        world.counting.gate.set()
        assert read.result() == DATA


def test_readers_of_one_extent_fetch_it_once_and_do_not_wait_for_others(world: World) -> None:
    cache = world.cache()
    world.counting.gate.clear()
    with ThreadPoolExecutor(8) as threads, cache.open(NAME, size_bytes=SIZE_BYTES) as reader:
        reads = [threads.submit(reader.read, i, 100) for i in range(4)]
        other = [threads.submit(reader.read, EXTENT_BYTES + i, 100) for i in range(4)]
        eventually(lambda: world.counting.at_once == 2)
        time.sleep(0.05)
        world.counting.gate.set()
        assert [read.result() for read in reads] == [DATA[i : i + 100] for i in range(4)]
        assert [read.result() for read in other] == [DATA[EXTENT_BYTES + i : EXTENT_BYTES + i + 100] for i in range(4)]
    assert len(world.counting.reads) == 2


def test_a_reader_that_is_closed_does_not_fail_those_that_wait_for_its_fetch(world: World) -> None:
    cache = world.cache()
    world.counting.gate.clear()
    first, second = (cache.open(NAME, size_bytes=SIZE_BYTES) for _ in range(2))
    world.counting.fault = lambda name, offset: (
        StoreUnavailableError("closed") if len(world.counting.reads) == 1 else None
    )
    first.prefetch(0, 10)
    eventually(lambda: world.counting.at_once == 1)
    with ThreadPoolExecutor(1) as thread:
        read = thread.submit(second.read, 0, 10)
        time.sleep(0.05)
        first.close()
        world.counting.gate.set()
        assert read.result() == DATA[:10]
    second.close()


def test_prefetch_does_not_block_and_brings_in_order(world: World) -> None:
    cache = world.cache()
    world.counting.gate.clear()
    with cache.open(NAME, size_bytes=SIZE_BYTES) as reader:
        reader.prefetch(2 * EXTENT_BYTES, EXTENT_BYTES)
        eventually(lambda: world.counting.at_once == 1)
        reader.prefetch(0, SIZE_BYTES)
        eventually(lambda: world.counting.at_once == 11)
        world.counting.gate.set()
        eventually(lambda: len(world.extents()) == 11)
        reader.prefetch(0, SIZE_BYTES)
        assert reader.read(0, SIZE_BYTES) == DATA
    assert len(world.counting.reads) == 11


def test_what_is_asked_for_goes_before_what_is_announced(world: World) -> None:
    cache = world.cache()
    for number in range(2, 30):
        world.origin.put(segment_name("w", number), DATA)
    world.counting.gate.clear()
    readers = [cache.open(segment_name("w", number), size_bytes=SIZE_BYTES) for number in range(1, 30)]
    for reader in readers[:-1]:
        reader.prefetch(0, SIZE_BYTES)
    eventually(lambda: world.counting.at_once == 16)
    with ThreadPoolExecutor(1) as thread:
        read = thread.submit(readers[-1].read, 0, 3 * EXTENT_BYTES)
        eventually(lambda: world.counting.at_once == 17)
        world.counting.gate.set()
        assert read.result() == DATA[: 3 * EXTENT_BYTES]
        last = [at for at, (name, _, _) in enumerate(world.counting.reads) if name == segment_name("w", 29)]
    assert len(last) == 3
    assert last[-1] < 100, "of 300"
    for reader in readers:
        reader.close()


def test_more_than_can_be_open_at_once_is_read_in_pieces(world: World) -> None:
    name, data = segment_name("w", 2), DATA * 2
    world.origin.put(name, data)
    with world.cache().open(name, size_bytes=len(data)) as reader:
        assert by_files(reader, 0, len(data)) is None
        assert by_files(reader, 0, AT_ONCE * EXTENT_BYTES) == data[: AT_ONCE * EXTENT_BYTES]
        assert reader.read(0, len(data)) == data


def test_other_names_pass_through(world: World) -> None:
    cache = world.cache()
    for name in (log_name("w", 1), "plain"):
        cache.put(name, b"1")
        assert cache.get(name) == b"1"
        cache.put(name, b"2")
        assert cache.get(name) == b"2"
        cache.discard(name)
        assert cache.get(name) == b"2"
    assert cache.cache_usage().used_bytes == 0


@given(
    st.lists(st.tuples(st.integers(0, SIZE_BYTES), st.integers(0, SIZE_BYTES), st.booleans()), max_size=12),
    st.sampled_from([0, EXTENT_BYTES, 3 * EXTENT_BYTES, 5 * EXTENT_BYTES + 17, 1 << 30]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_read_equals_the_objects_bytes(
    tmp_path_factory: pytest.TempPathFactory, reads: list[tuple[int, int, bool]], limit_bytes: int
) -> None:
    world = World(tmp_path_factory.mktemp("any") / "cache")
    with world.cache(limit_bytes) as cache, cache.open(NAME, size_bytes=SIZE_BYTES) as reader:
        for begin, end, files in reads:
            offset, length = min(begin, end), abs(end - begin)
            read = by_files(reader, offset, length) if files else None
            assert (reader.read(offset, length) if read is None else read) == DATA[offset : offset + length]
            assert world.held_bytes() <= limit_bytes
        assert cache.cache_usage().used_bytes == world.held_bytes()
    world.caches.clear()


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


# -- opening ------------------------------------------------------------------------------------------


def test_its_url_opens_it_again(tmp_path: Path) -> None:
    origin = FileStore(tmp_path / "a b?&é")
    origin.put(NAME, DATA)
    with ReadCache(origin, tmp_path / "cache &?", limit_bytes=1 << 20, extent_bytes=EXTENT_BYTES) as cache:
        assert cache.get(NAME) == DATA
        origin.delete(NAME)
        with open_store(cache.url) as again, again.open(NAME, size_bytes=SIZE_BYTES) as reader:
            assert again.url == cache.url
            assert isinstance(again, ReadCache)
            assert again.cache_usage() == cache.cache_usage()
            assert reader.read(0, SIZE_BYTES) == DATA


@pytest.mark.parametrize(
    "url",
    [
        *("cache://", "cache:///a", "cache://a?store=b", "cache:///a?store=", "cache:///a?store=memory%3A%2F%2Fm&x=1"),
        *("cache:///a?store=memory%3A%2F%2Fm&limit_bytes=x", "cache:///dev/null?store=memory%3A%2F%2Fm"),
        *("cache:///a?store=gopher%3A%2F%2Fm", "cache:///a?store=memory%3A%2F%2Fm&limit_bytes=-1"),
    ],
)
def test_wrong_urls(url: str) -> None:
    with pytest.raises(ConfigError):
        open_store(url)


def test_there_is_a_limit_by_default_and_it_does_not_grow(tmp_path: Path) -> None:
    with ReadCache(MemoryStore(), tmp_path) as cache:
        limit_bytes = cache.cache_usage().limit_bytes or 0
    assert limit_bytes > 1 << 20
    assert f"limit_bytes={limit_bytes}&" in cache.url


def _uses(cache: ReadCache, used_bytes: int) -> bool:
    return cache.cache_usage().used_bytes == used_bytes


def test_a_count_that_is_wrong_is_corrected(world: World) -> None:
    world.cache().get(NAME)
    for wrong_bytes in (1 << 29, 5):
        (world.root / "used").write_bytes(wrong_bytes.to_bytes(8, "little") * 3)
        cache = world.cache()
        eventually(partial(_uses, cache, SIZE_BYTES))
    os.truncate(world.root / "used", 0)
    assert world.cache().cache_usage().used_bytes == SIZE_BYTES


def test_an_eviction_corrects_the_count(world: World) -> None:
    cache = world.cache(8 * EXTENT_BYTES)
    (world.root / "used").write_bytes((8 * EXTENT_BYTES).to_bytes(8, "little") * 3)
    with cache.open(NAME, size_bytes=SIZE_BYTES) as reader:
        assert by_files(reader, 0, 10) == DATA[:10]
    assert cache.cache_usage().used_bytes == EXTENT_BYTES
