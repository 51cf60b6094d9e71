"""The store contract on a real cluster."""

from __future__ import annotations

from itertools import count

import pytest

from objectcache.stores import Store, open_store
from objectcache.testing.store_model import check_against_model
from objectcache.testing.stores import StoreContract
from tests.services import Cluster

_LIMIT_BYTES = 1 << 40
_numbers = count()


class TestRados(StoreContract):
    model_examples = 15

    @pytest.fixture(autouse=True)
    def _use(self, cluster: Cluster, pool: str) -> None:
        self._cluster, self._pool = cluster, pool

    def where(self) -> str:
        return self._cluster.url(self._pool, f"some/where/{next(_numbers)}")

    def make_store(self, limit_bytes: int | None = None) -> Store:
        # With a limit, so that bytes are counted.
        return open_store(self.where(), limit_bytes=limit_bytes or _LIMIT_BYTES)


class TestRadosInStripes(TestRados):
    """Objects of the contract are small: here most of them are several data objects."""

    def make_store(self, limit_bytes: int | None = None) -> Store:
        from objectcache.stores.rados import RadosStore, parse_rados_url

        options = parse_rados_url(self.where(), {})
        return RadosStore(options, limit_bytes=limit_bytes or _LIMIT_BYTES, inline_bytes=0, stripe_bytes=4096)

    def test_is_like_a_dict(self) -> None:
        def make_store(limit_bytes: int | None = None) -> Store:
            from objectcache.stores.rados import RadosStore, parse_rados_url

            options = parse_rados_url(self.where(), {})
            return RadosStore(options, limit_bytes=_LIMIT_BYTES, inline_bytes=0, stripe_bytes=7)

        check_against_model(make_store, examples=self.model_examples)


class TestRadosWithAWholeNamespace(TestRados):
    model_examples = 5

    def where(self) -> str:
        return self._cluster.url(self._pool, "") + f"&namespace=n{next(_numbers)}"


class TestRadosWithAnIndexElsewhere(TestRados):
    """As an erasure-coded pool needs it."""

    model_examples = 5

    @pytest.fixture(autouse=True)
    def _use_another(self, cluster: Cluster, index_pool: str) -> None:
        self._index = index_pool

    def where(self) -> str:
        return f"{super().where()}&index={self._index}"
