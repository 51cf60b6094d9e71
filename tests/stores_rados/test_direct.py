"""A cache straight over a pool: the contract, and what it asks for."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest
from typer.testing import CliRunner

import objectcache
from objectcache.cache import KVCache
from objectcache.cache.local import LocalCache
from objectcache.cli.main import app
from objectcache.client import ClientOptions
from objectcache.errors import IntegrityError, KeyNotFoundError
from objectcache.stores import open_store
from objectcache.testing.caches import CacheContract
from objectcache.testing.synthetic import flat_layout, new_namespace, prompt, retrieve_and_check, store_parts
from tests.gateway.process import eventually
from tests.services import Cluster

_numbers = count()


class TestDirect(CacheContract):
    @pytest.fixture(autouse=True)
    def use(self, cluster: Cluster, pool: str, tmp_path: Path) -> None:
        self.url = cluster.url(pool, f"direct/{next(_numbers)}")
        self.state_dir = tmp_path

    def open_cache(self, *, buffer_bytes: int = 1 << 30) -> KVCache:
        return objectcache.open(self.url, options=ClientOptions(buffer_bytes=buffer_bytes), state_dir=self.state_dir)

    def restart(self) -> None:
        """Nothing runs between two openings."""


def test_a_retrieval_asks_for_where_and_what_at_once(cluster: Cluster, pool: str, tmp_path: Path) -> None:
    url = cluster.url(pool, "asked")
    namespace = new_namespace(flat_layout(8, 32 << 10))
    chain = prompt(namespace, 16)
    with objectcache.open(url, state_dir=tmp_path) as cache:
        assert isinstance(cache, LocalCache)
        store_parts(cache, namespace, chain)
        cache.core.following.stop()
        before = dict(cache.request_counts())
        assert retrieve_and_check(cache, namespace, chain).tokens == 256
        counts = cache.request_counts()
        # But for `list`, which a sweep in the background does too.
        asked = {kind: counts.get(kind, 0) - before.get(kind, 0) for kind in ("get", "head", "put", "delete")}
        # The segment is some more than 4 MiB, in two data objects.
        assert asked == {"get": 2, "head": 1, "put": 0, "delete": 0}


@pytest.mark.parametrize("change", ["gone", "cut short", "another of the same size", "longer"])
def test_a_segment_that_is_not_what_was_committed_is_a_miss_and_forgotten(
    cluster: Cluster, pool: str, tmp_path: Path, change: str
) -> None:
    url = cluster.url(pool, f"damaged/{change}")
    namespace = new_namespace(flat_layout(2, 10_000))
    chain = prompt(namespace, 8)
    with objectcache.open(url, state_dir=tmp_path) as cache, open_store(url) as behind:
        (ticket,) = store_parts(cache, namespace, chain)
        name = ticket.header.name
        match = cache.match(namespace, chain)
        data = behind.get(name)
        behind.delete(name)
        if change != "gone":
            changed = {"cut short": data[:-1000], "another of the same size": bytes(len(data)), "longer": data + b"x"}
            behind.put(name, changed[change])
        expected = KeyNotFoundError if change == "gone" else IntegrityError
        with cache.retrieve(match) as retrieval, pytest.raises(expected):
            retrieval.wait(1)
        eventually(lambda: not cache.match(namespace, chain).tokens, "it is forgotten")


def test_the_command_line_explains_a_pool(
    cluster: Cluster, pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    url = cluster.url(pool, "explained")
    namespace = new_namespace(flat_layout(2, 1000))
    with objectcache.open(url) as cache:
        (ticket,) = store_parts(cache, namespace, prompt(namespace, 4))
        whole = CliRunner().invoke(app, ["ls", url, "--segments"])
    assert ticket.header.name in whole.stdout
    assert "requests to the pool: " in whole.stderr
