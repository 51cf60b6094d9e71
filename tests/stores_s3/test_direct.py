"""A cache straight over a bucket: the contract, and what it asks for."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import rmtree

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
from tests.services import S3Service


class TestDirect(CacheContract):
    @pytest.fixture(autouse=True)
    def use(self, rgw: S3Service, tmp_path: Path) -> None:
        self.url = f"s3://{rgw.make_bucket()}/kv?endpoint={rgw.endpoint}"
        self.state_dir = tmp_path

    def open_cache(self, *, buffer_bytes: int = 1 << 30) -> KVCache:
        return objectcache.open(self.url, options=ClientOptions(buffer_bytes=buffer_bytes), state_dir=self.state_dir)

    def restart(self) -> None:
        """Nothing runs between two openings."""


def counted(cache: LocalCache, before: dict[str, int]) -> dict[str, int]:
    counts = cache.request_counts()
    return {kind: count - before.get(kind, 0) for kind, count in counts.items() if count > before.get(kind, 0)}


def test_requests_are_few(service: S3Service, tmp_path: Path) -> None:
    url = f"s3://{service.make_bucket()}/kv?endpoint={service.endpoint}"
    namespace = new_namespace(flat_layout(8, 32 << 10))
    chain = prompt(namespace, 16)
    with objectcache.open(url, state_dir=tmp_path) as cache:
        assert isinstance(cache, LocalCache)
        cache.core.following.stop()
        assert counted(cache, {}) == {"list": 2}
        before = dict(cache.request_counts())
        store_parts(cache, namespace, chain)
        assert counted(cache, before) == {"put": 3, "list": 2}
        before = dict(cache.request_counts())
        store_parts(cache, namespace, prompt(namespace, 16, seed=1))
        assert counted(cache, before) == {"put": 2}, "segment and record"
        before = dict(cache.request_counts())
        assert retrieve_and_check(cache, namespace, chain).tokens == 256
        assert counted(cache, before) == {"get": 1}, "4 MiB"
        before = dict(cache.request_counts())
        cache.core.reconcile()
        assert counted(cache, before) == {"list": 2}


def test_a_large_segment_is_uploaded_in_parts_and_read_by_many_requests(service: S3Service, tmp_path: Path) -> None:
    url = f"s3://{service.make_bucket()}?endpoint={service.endpoint}"
    namespace = new_namespace(flat_layout(6, 1 << 20))
    with objectcache.open(url, state_dir=tmp_path) as cache:
        assert isinstance(cache, LocalCache)
        cache.core.following.stop()
        store_parts(cache, namespace, prompt(namespace, 8))
        assert cache.request_counts()["multipart"] == 2 + 7
        before = dict(cache.request_counts())
        assert retrieve_and_check(cache, namespace, prompt(namespace, 8)).tokens == 128
        assert counted(cache, before) == {"get": 8 + 5 * 2}


@pytest.mark.parametrize("change", ["gone", "cut short", "another of the same size", "longer"])
def test_a_segment_that_is_not_what_was_committed_is_a_miss_and_forgotten(
    service: S3Service, tmp_path: Path, change: str
) -> None:
    url = f"s3://{service.make_bucket()}/kv?endpoint={service.endpoint}"
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


def test_the_store_has_its_own_clock(service: S3Service, tmp_path: Path) -> None:
    url = f"s3://{service.make_bucket()}?endpoint={service.endpoint}"
    with objectcache.open(url, state_dir=tmp_path) as cache, open_store(url) as store:
        assert isinstance(cache, LocalCache)
        before_s = cache.core._reconciler.store_time_s()
        store.put("x", b"x")
        assert before_s <= store.head("x").modified_s <= cache.core._reconciler.store_time_s()


def test_the_command_line_explains_a_bucket(
    service: S3Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    url = f"s3://{service.make_bucket()}/kv?endpoint={service.endpoint}"
    namespace = new_namespace(flat_layout(2, 1000))
    with objectcache.open(url) as cache:
        (ticket,) = store_parts(cache, namespace, prompt(namespace, 4))
        (state,) = (tmp_path / "objectcache").iterdir()
        whole = CliRunner().invoke(app, ["ls", url, "--segments"])  # beside a process that uses it
    assert ticket.header.name in whole.stdout
    assert "requests to the bucket: " in whole.stderr
    rmtree(state)
    found = CliRunner().invoke(app, ["inspect", ticket.header.name, url, "--verify", "--json"])
    assert found.exit_code == 0, found.output
    assert {verdict["problem"] for verdict in json.loads(found.stdout)["verdicts"]} <= {"", None}
    assert not (tmp_path / "objectcache").exists() or not list((tmp_path / "objectcache").iterdir()), (
        "nothing is written"
    )
