"""A real cluster for all tests here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from objectcache.stores import Store
from tests.services import Cluster, cluster, cluster_with_keys

__all__ = ["cluster", "cluster_with_keys"]

OpenStore = Callable[..., Any]


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CEPH_ARGS", "CEPH_CONF", "CEPH_KEYRING"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def pool(cluster: Cluster) -> str:
    return cluster.make_pool()


@pytest.fixture(scope="session")
def index_pool(cluster: Cluster) -> str:
    return cluster.make_pool()


@pytest.fixture
def open_rados(cluster: Cluster, pool: str, request: pytest.FixtureRequest) -> Iterator[OpenStore]:
    """`open_rados(…)`: a store of the test's own prefix."""
    from objectcache.stores.rados import RadosStore, parse_rados_url

    stores: list[Store] = []

    def make(pool: str = pool, **options: Any) -> RadosStore:
        prefix = request.node.name.replace("[", "/").strip("]")
        store = RadosStore(parse_rados_url(cluster.url(pool, prefix), {}), **options)
        stores.append(store)
        return store

    yield make
    for store in stores:
        store.close()
