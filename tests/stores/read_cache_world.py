"""A read cache in front of a store that counts."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from objectcache.names import segment_name
from objectcache.stores import MemoryStore, ObjectReader, ReadCache
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
