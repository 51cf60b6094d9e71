"""The memory store."""

from __future__ import annotations

import gc

import pytest

from objectcache.errors import ConfigError
from objectcache.stores import MemoryStore, Store, open_store
from objectcache.testing.stores import StoreContract


class TestMemoryStore(StoreContract):
    def make_store(self, limit_bytes: int | None = None) -> Store:
        return MemoryStore(limit_bytes)


def test_there_is_a_limit_by_default() -> None:
    assert (MemoryStore().usage().limit_bytes or 0) > 1 << 20


def test_its_url_is_the_same_object() -> None:
    store = MemoryStore()
    assert open_store(store.url) is store


def test_a_named_store_stays_for_those_who_come_back() -> None:
    with open_store("memory://stays", limit_bytes=1000) as store:
        store.put("a", b"1")
    del store
    gc.collect()
    again = open_store("memory://stays")
    assert again.get("a") == b"1"
    assert again.usage().limit_bytes == 1000
    with pytest.raises(ConfigError):
        open_store("memory://stays", limit_bytes=2000)


def test_an_unnamed_store_goes_with_its_last_user() -> None:
    store = MemoryStore()
    url = store.url
    store.put("a", b"1")
    del store
    gc.collect()
    assert list(open_store(url).list()) == []


def test_a_name_is_taken_once() -> None:
    store = MemoryStore(id="taken")
    with pytest.raises(ConfigError):
        MemoryStore(id="taken")
    assert open_store("memory://taken") is store
