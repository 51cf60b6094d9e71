"""The read cache: what it fetches, and how it is opened."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from objectcache.errors import ConfigError, ObjectNotFoundError, StoreUnavailableError
from objectcache.names import log_name, segment_name
from objectcache.stores import FileStore, MemoryStore, ReadCache, open_store
from objectcache.stores.read_cache_reader import AT_ONCE
from tests.stores.read_cache_world import DATA, EXTENT_BYTES, NAME, SIZE_BYTES, World, by_files, eventually

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
    world.counting.free.add(segment_name("w", 29))
    with ThreadPoolExecutor(1) as thread:
        # While all that was announced first is still under way, or waits in line.
        assert thread.submit(readers[-1].read, 0, 3 * EXTENT_BYTES).result(20) == DATA[: 3 * EXTENT_BYTES]
    last = [at for at, (name, _, _) in enumerate(world.counting.reads) if name == segment_name("w", 29)]
    assert last == [16, 17, 18], "of 311"
    world.counting.gate.set()
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
