"""The read cache on disks that fill and fail: reads go on, from the store itself."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from objectcache.errors import ConfigError
from objectcache.names import segment_name
from objectcache.stores import MemoryStore, ReadCache
from tests.stores.conftest import SMALL_DISK_BYTES
from tests.stores.counting import CountingStore

EXTENT_BYTES = 256 << 10
SIZE_BYTES = 6 << 20
NAME = segment_name("w", 1)
DATA = np.random.default_rng(5).bytes(SIZE_BYTES)


@pytest.fixture
def origin() -> CountingStore:
    store = MemoryStore()
    store.put(NAME, DATA)
    return CountingStore(store)


def test_a_full_disk_evicts_more(small_disk: Path, origin: CountingStore) -> None:
    with ReadCache(origin, small_disk, limit_bytes=1 << 30, extent_bytes=EXTENT_BYTES) as cache:
        with cache.open(NAME, size_bytes=SIZE_BYTES) as reader:
            for offset in range(0, SIZE_BYTES, EXTENT_BYTES):
                assert reader.read(offset, 1000) == DATA[offset : offset + 1000]
            with reader.files(SIZE_BYTES - EXTENT_BYTES, EXTENT_BYTES) as ranges:
                assert ranges is not None, "the last one is kept, at the expense of others"
            assert reader.read(0, SIZE_BYTES) == DATA
        assert cache.counters().evicted_extents > 0
        assert SMALL_DISK_BYTES // 2 <= cache.cache_usage().used_bytes <= SMALL_DISK_BYTES
        assert os.listdir(small_disk / "tmp") == []


def test_a_disk_that_others_have_filled(small_disk: Path, origin: CountingStore) -> None:
    with ReadCache(origin, small_disk, limit_bytes=1 << 30, extent_bytes=EXTENT_BYTES) as cache:
        (small_disk / "others").write_bytes(bytes(SMALL_DISK_BYTES - 100_000))
        with cache.open(NAME, size_bytes=SIZE_BYTES) as reader:
            with reader.files(0, 1000) as ranges:
                assert ranges is None
            origin.reads.clear()
            assert reader.read(0, 1000) == DATA[:1000]
            assert origin.reads == [(NAME, 0, 1000)], "no more than what was asked for"
            os.unlink(small_disk / "others")
            with reader.files(0, 1000) as ranges:
                assert ranges is not None
        assert cache.cache_usage().used_bytes == EXTENT_BYTES


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EACCES, errno.EMFILE])
@pytest.mark.parametrize(
    "call", ["pwrite", "ftruncate", "utime", "link", "posix_fallocate", "flock", "open", "unlink", "preadv"]
)
def test_a_disk_that_fails_is_as_no_cache(
    tmp_path: Path, origin: CountingStore, disk_fault: Callable[..., None], call: str, number: int
) -> None:
    cache = ReadCache(origin, tmp_path, limit_bytes=4 * EXTENT_BYTES, extent_bytes=EXTENT_BYTES)
    with cache.open(NAME, size_bytes=SIZE_BYTES) as reader:
        reader.read(0, 2 * EXTENT_BYTES)
        disk_fault(call, number)
        for offset in (0, 100, 3 * EXTENT_BYTES, 5 << 20, 0):
            with reader.files(offset, 1000) as ranges:
                for file in ranges or ():
                    assert os.pread(file.descriptor, file.length, file.offset) == DATA[offset : offset + 1000]
            assert reader.read(offset, EXTENT_BYTES) == DATA[offset : offset + EXTENT_BYTES]
        cache.discard(NAME)
        assert reader.read(0, SIZE_BYTES) == DATA


def test_a_root_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for root in (tmp_path / "file", Path("/dev/null/a"), tmp_path / ("x" * 600)):
        with pytest.raises(ConfigError):
            ReadCache(MemoryStore(), root)
    with pytest.raises(ConfigError):
        ReadCache(MemoryStore(), tmp_path, limit_bytes=-1)
