"""Keys and what they allow."""

from __future__ import annotations

import pytest

from objectcache.errors import StoreAccessError
from objectcache.stores import open_store
from tests.services import Cluster

DATA = b"x" * 100_000


@pytest.fixture(scope="module")
def pool(cluster_with_keys: Cluster) -> str:
    cluster = cluster_with_keys
    pool = cluster.make_pool()
    for client, osd in (("writer", f"allow rw pool={pool} namespace=mine"), ("reader", f"allow r pool={pool}")):
        keyring = f"{cluster.directory}/client.{client}.keyring"
        cluster.ceph("auth", "get-or-create", f"client.{client}", "mon", "allow r", "osd", osd, "-o", keyring)
    return pool


def test_what_the_documentation_asks_for_suffices(cluster_with_keys: Cluster, pool: str) -> None:
    url = cluster_with_keys.url(pool) + "&namespace=mine&client=writer"
    with open_store(url, limit_bytes=1 << 30) as store:
        store.put("a", DATA, if_absent=True)
        store.put("b", b"small")
        assert [info.name for info in store.list()] == ["a", "b"]
        store.put("a", DATA)
        assert store.get("a") == DATA
        store.delete("b")
        assert store.usage().used_bytes == len(DATA)
    with open_store(cluster_with_keys.url(pool) + "&namespace=mine&client=reader") as store:
        assert store.get("a") == DATA
        for refused in (lambda: store.put("c", DATA), lambda: store.put("c", b""), lambda: store.delete("a")):
            with pytest.raises(StoreAccessError, match="allow rw"):
                refused()
        assert [info.name for info in store.list()] == ["a"]


@pytest.mark.parametrize("more", ["&client=writer", "&namespace=other&client=writer"])
def test_what_is_not_allowed_is_refused(cluster_with_keys: Cluster, pool: str, more: str) -> None:
    with open_store(cluster_with_keys.url(pool) + more) as store:
        for refused in (lambda: store.head("a"), lambda: list(store.list()), lambda: store.put("a", b"")):
            with pytest.raises(StoreAccessError):
                refused()


def test_a_client_without_a_key_is_told_where_keys_are(cluster_with_keys: Cluster, pool: str) -> None:
    url = cluster_with_keys.url(pool) + "&client=nobody"
    with open_store(url) as store, pytest.raises(StoreAccessError, match="keyring"):
        store.head("a")
