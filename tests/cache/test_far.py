"""In-process use over a store that is far away."""

from __future__ import annotations

from pathlib import Path

import pytest

from objectcache.cache import KVCache
from objectcache.cache.directory import open_beside
from objectcache.cache.local import LocalCache
from objectcache.stores import MemoryStore
from objectcache.testing.caches import CacheContract
from objectcache.testing.far import LatencyStore


class TestFar(CacheContract):
    @pytest.fixture(autouse=True)
    def use(self, tmp_path: Path) -> None:
        self.objects = MemoryStore(1 << 30)
        self.folder = tmp_path

    def open_cache(self, *, buffer_bytes: int = 1 << 30) -> KVCache:
        return LocalCache(open_beside(LatencyStore(self.objects, 0.002), self.folder), buffer_bytes=buffer_bytes)

    def restart(self) -> None:
        """Nothing runs between two openings."""
