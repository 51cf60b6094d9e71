"""The contract of caches, in this process over files."""

from __future__ import annotations

from pathlib import Path

import pytest

import objectcache
from objectcache.cache import KVCache
from objectcache.client import ClientOptions
from objectcache.testing.caches import CacheContract


class TestLocal(CacheContract):
    @pytest.fixture(autouse=True)
    def use(self, tmp_path: Path) -> None:
        self.root = tmp_path / "cache"

    def open_cache(self, *, buffer_bytes: int = 1 << 30) -> KVCache:
        return objectcache.open(self.root.as_uri(), options=ClientOptions(buffer_bytes=buffer_bytes))

    def restart(self) -> None:
        """Nothing runs between two openings."""
