"""More names than one answer holds, and counting them beside others."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from objectcache.errors import StoreFullError
from objectcache.testing.store_listing import stored_names
from tests.gateway.process import eventually
from tests.stores_rados.conftest import OpenStore

NAMES = [f"{number:06d}" if number % 7 else f"{number:06d}/x" for number in range(20_000)]


def filled(open_rados: OpenStore) -> Any:
    """A store with NAMES of a byte each, written to the index as an upload of each would."""
    from objectcache.stores.rados.entry import Entry

    store = open_rados()
    index, below = store._index, store._below
    shards: dict[int, dict[str, bytes]] = {}
    for name in NAMES:
        shard = index.shard_of(below + name)
        shards.setdefault(shard, {})[below + name] = Entry(1, 0, name).encode().encode()
    for shard, keys in shards.items():
        assert index.commit(shard, {}, keys, doing="filling")
    return store


@pytest.mark.timeout(300)
def test_many_names(open_rados: OpenStore) -> None:
    store = filled(open_rados)
    names = sorted(NAMES)
    assert stored_names(store) == names
    assert stored_names(store, start_after="019990") == names[-9:]
    assert stored_names(store, "0190") == [name for name in names if name.startswith("0190")]
    assert list(store.list_prefixes()) == [name[:-1] for name in names if name.endswith("/x")]
    before = store.request_counts()["list"]
    assert next(store.list()).name == "000000/x"
    assert store.request_counts()["list"] - before == len(store._index.shards)

    counted = open_rados(limit_bytes=len(NAMES) + 10)
    other = open_rados()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: counted.put(f"more/{number}", b"1"), range(8)))
    assert counted.usage().used_bytes == len(NAMES) + 8
    other.put("of another", b"1234")
    again = open_rados(limit_bytes=len(NAMES) + 10, rescan_s=0)
    with pytest.raises(StoreFullError):
        again.put("too much", b"1")
    other.delete("of another")

    def fits() -> bool:
        try:
            again.put("fits now", b"1")
        except StoreFullError:
            return False
        return True

    eventually(fits, "a scan finds that there is room")
