"""The read cache among processes that share it, some of which are killed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from objectcache.names import segment_name
from objectcache.stores import FileStore, ReadCache

EXTENT_BYTES = 64 << 10
OBJECTS, SIZE_BYTES = 8, 5 * EXTENT_BYTES + 1000
LIMIT_BYTES = 12 * EXTENT_BYTES

READER = """
import random, sys
from objectcache.names import segment_name
from objectcache.stores import open_store
store = open_store(sys.argv[1])
objects, size_bytes, seed = map(int, sys.argv[2:5])
expected = [open_store(sys.argv[5]).get(segment_name("w", number)) for number in range(objects)]
chance = random.Random(seed)
print("ready", flush=True)
for _ in range(int(sys.argv[6])):
    number = chance.randrange(objects)
    offset = chance.randrange(size_bytes)
    length = chance.randrange(size_bytes - offset)
    with store.open(segment_name("w", number), size_bytes=size_bytes) as reader:
        reader.prefetch(offset, length)
        assert reader.read(offset, length) == expected[number][offset : offset + length], (number, offset, length)
        if chance.random() < 0.02:
            store.discard(segment_name("w", number))
print("done", flush=True)
store.close()
"""


def content(number: int) -> bytes:
    return np.random.default_rng(number).bytes(SIZE_BYTES)


def make(tmp_path: Path) -> ReadCache:
    origin = FileStore(tmp_path / "origin")
    for number in range(OBJECTS):
        origin.put(segment_name("w", number), content(number))
    return ReadCache(origin, tmp_path / "cache", limit_bytes=LIMIT_BYTES, extent_bytes=EXTENT_BYTES)


def start(tmp_path: Path, cache: ReadCache, seed: int, reads: int) -> subprocess.Popen[str]:
    arguments = [cache.url, str(OBJECTS), str(SIZE_BYTES), str(seed), (tmp_path / "origin").as_uri(), str(reads)]
    return subprocess.Popen([sys.executable, "-c", READER, *arguments], stdout=subprocess.PIPE, text=True)


def held_bytes(root: Path) -> int:
    """Blocks of all files that have a name; one that is being placed has two for a moment."""
    files: dict[int, int] = {}
    for directory, _, names in os.walk(root):
        for name in names:
            try:
                stat = os.stat(f"{directory}/{name}")
            except FileNotFoundError:
                continue
            if name not in ("used", "evicting"):
                files[stat.st_ino] = stat.st_blocks * 512
    return sum(files.values())


def check_all(cache: ReadCache) -> None:
    for number in range(OBJECTS):
        with cache.open(segment_name("w", number), size_bytes=SIZE_BYTES) as reader:
            assert reader.read(0, SIZE_BYTES) == content(number)


def test_processes_share_a_cache_within_its_limit(tmp_path: Path) -> None:
    cache = make(tmp_path)
    readers = [start(tmp_path, cache, seed, 150) for seed in range(3)]
    try:
        while any(reader.poll() is None for reader in readers):
            # A walk takes a while: a file may be counted, then evicted, and what took its place be counted as well.
            over = held_bytes(tmp_path / "cache") > LIMIT_BYTES
            assert not over or held_bytes(tmp_path / "cache") <= LIMIT_BYTES + 4 * EXTENT_BYTES
            time.sleep(0.002)
        assert [reader.communicate()[0] for reader in readers] == ["ready\ndone\n"] * 3
    finally:
        for reader in readers:
            reader.kill()
    assert cache.cache_usage().used_bytes <= LIMIT_BYTES
    check_all(cache)
    cache.close()
    with ReadCache(FileStore(tmp_path / "origin"), tmp_path / "cache", limit_bytes=LIMIT_BYTES) as again:
        until_s = time.monotonic() + 20
        while again.cache_usage().used_bytes != held_bytes_exact(tmp_path / "cache"):
            assert time.monotonic() < until_s
            time.sleep(0.01)


def held_bytes_exact(root: Path) -> int:
    """Sizes of the extents."""
    return sum(path.stat().st_size for path in (root / "extents").rglob("*") if path.is_file())


def test_killed_at_any_moment(tmp_path: Path) -> None:
    cache = make(tmp_path)
    chance = random.Random(7)
    for round_ in range(8):
        readers = [start(tmp_path, cache, 10 * round_ + seed, 100_000) for seed in range(2)]
        for reader in readers:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0.01, 0.25))
        for reader in readers:
            assert reader.poll() is None
            reader.kill()
            reader.communicate()
        used_bytes = cache.cache_usage().used_bytes
        assert held_bytes_exact(tmp_path / "cache") <= used_bytes <= LIMIT_BYTES
        check_all(cache)
    cache.close()
    with ReadCache(
        FileStore(tmp_path / "origin"), tmp_path / "cache", limit_bytes=LIMIT_BYTES, extent_bytes=EXTENT_BYTES
    ) as again:
        until_s = time.monotonic() + 20
        while os.listdir(tmp_path / "cache/tmp") or again.cache_usage().used_bytes != held_bytes_exact(
            tmp_path / "cache"
        ):
            assert time.monotonic() < until_s
            time.sleep(0.01)
        check_all(again)
