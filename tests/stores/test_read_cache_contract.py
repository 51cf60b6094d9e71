"""The read cache keeps the contract of stores, also for names that it keeps extents of."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from objectcache.stores import FileStore, MemoryStore, ReadCache, Store
from objectcache.testing.stores import StoreContract


class _Contract(StoreContract):
    """Each store has a directory of its own, which goes after the test."""

    prefix = ""
    extent_bytes = 1000
    fill_on_write = False
    model_examples = 15

    @pytest.fixture(autouse=True)
    def _directories(self) -> Iterator[None]:
        with tempfile.TemporaryDirectory() as self.root:
            yield

    def make_store(self, limit_bytes: int | None = None) -> Store:
        root = tempfile.mkdtemp(dir=self.root)
        return ReadCache(
            self.make_wrapped(root, limit_bytes),
            Path(root) / "cache",
            limit_bytes=1 << 30,
            extent_bytes=self.extent_bytes,
            fill_on_write=self.fill_on_write,
            prefix=self.prefix,
        )

    def make_wrapped(self, root: str, limit_bytes: int | None) -> Store:
        return MemoryStore(limit_bytes)


class TestKept(_Contract):
    keeps_open_readers = False  # what they have not read is not there any more


class TestKeptOverFiles(_Contract):
    keeps_open_readers = False
    extent_bytes = 64 << 10

    def make_wrapped(self, root: str, limit_bytes: int | None) -> Store:
        return FileStore(root, limit_bytes=limit_bytes)


class TestFilled(_Contract):
    keeps_open_readers = False
    fill_on_write = True


class TestPassedThrough(_Contract):
    prefix = ".kv/seg/"
