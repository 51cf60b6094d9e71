"""What URLs open, and what none opens."""

from __future__ import annotations

from pathlib import Path

import pytest

import objectcache
from objectcache.cache.local import LocalCache
from objectcache.client import GatewayCache
from objectcache.errors import ConfigError, StoreError
from objectcache.testing.synthetic import flat_layout, new_namespace, prompt, retrieve_and_check, store_parts

LAYOUT = flat_layout(2, 100)


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1:1", "http://127.0.0.1:1/", "http://127.0.0.1:1/a/b", "http:///bucket"),
        *("http://127.0.0.1:99999/bucket", "http://127.0.0.1:port/bucket", "http://[::1/bucket"),
        *("https://127.0.0.1/", "s3://", "ftp://x/y", "file://data/kv"),
    ],
)
def test_urls_that_cannot_be_opened(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do they leave a directory of that name where one happens to be."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError):
        objectcache.open(url)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["plain", "with space", "per%20cent", "ünïcode", "hash#and?mark"])
@pytest.mark.parametrize("as_url", [True, False])
def test_directories_by_url_and_by_path(tmp_path: Path, folder: str, as_url: bool) -> None:
    root = tmp_path / folder
    namespace = new_namespace(LAYOUT)
    with objectcache.open(root.as_uri() if as_url else str(root)) as cache:
        assert isinstance(cache, LocalCache)
        store_parts(cache, namespace, prompt(namespace, 2))
    assert (root / "objects").is_dir()
    with objectcache.open(str(root) if as_url else root.as_uri()) as cache:
        assert retrieve_and_check(cache, namespace, prompt(namespace, 2)).tokens == 32


def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    objectcache.open("kv").close()
    assert (tmp_path / "kv" / "objects").is_dir()


def test_memory_is_a_cache_of_its_own_each_time() -> None:
    namespace = new_namespace(LAYOUT)
    with objectcache.open("memory://one") as cache:
        store_parts(cache, namespace, prompt(namespace, 2))
        assert retrieve_and_check(cache, namespace, prompt(namespace, 2)).tokens == 32


def test_a_bucket_that_cannot_be_reached_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "nobody")
    with pytest.raises(StoreError):
        objectcache.open("s3://bucket/kv?endpoint=http://127.0.0.1:1", state_dir=tmp_path)


def test_a_gateway_is_not_asked_before_it_is_needed() -> None:
    with objectcache.open("http://127.0.0.1:1/bucket") as cache:
        assert isinstance(cache, GatewayCache)
