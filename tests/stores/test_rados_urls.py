"""A RADOS store's URL, and what it takes from the environment. Needs no cluster."""

from __future__ import annotations

import pytest

from objectcache.errors import ConfigError

pytest.importorskip("rados", reason="python3-rados is not installed")

from objectcache.stores import child_url, open_store
from objectcache.stores.rados import RadosOptions, parse_rados_url


@pytest.mark.parametrize(
    ("url", "environment", "expected"),
    [
        ("rados://kv", {}, RadosOptions("kv", "", "client.admin", "", "", "kv")),
        ("rados://kv/a/b/", {"CEPH_CONF": "/c"}, RadosOptions("kv", "a/b", "client.admin", "/c", "", "kv")),
        ("rados://kv?client=gw", {}, RadosOptions("kv", "", "client.gw", "", "", "kv")),
        ("rados://kv?client=client.gw", {"CEPH_ARGS": "--id x"}, RadosOptions("kv", "", "client.gw", "", "", "kv")),
        ("rados://kv", {"CEPH_ARGS": "--id x -m 1"}, RadosOptions("kv", "", "client.x", "", "", "kv")),
        ("rados://kv", {"CEPH_ARGS": "--name=client.y"}, RadosOptions("kv", "", "client.y", "", "", "kv")),
        (
            "RADOS://ec/p%20q?conf=/etc/c.conf&namespace=n/1&index=meta",
            {"CEPH_CONF": "/c"},
            RadosOptions("ec", "p q", "client.admin", "/etc/c.conf", "n/1", "meta"),
        ),
    ],
)
def test_urls(url: str, environment: dict[str, str], expected: RadosOptions) -> None:
    assert parse_rados_url(url, environment) == expected
    assert parse_rados_url(expected.url, {}) == expected


@pytest.mark.parametrize(
    "rest",
    [
        *("", "/a", "a b", "pool/../x", "pool//x", "pool/%ff", "pool#x", "pool?key=s", "pool?client=a&client=b"),
        *("pool?client=osd 1", "pool?conf=rel", "pool?index=a/b", "user@pool"),
    ],
)
def test_what_is_no_url(rest: str) -> None:
    with pytest.raises(ConfigError):
        open_store(f"rados://{rest}")


def test_ceph_args_that_cannot_be_read() -> None:
    with pytest.raises(ConfigError, match="CEPH_ARGS"):
        parse_rados_url("rados://kv", {"CEPH_ARGS": "--id 'x"})


def test_children_are_prefixes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CEPH_ARGS", raising=False)
    monkeypatch.delenv("CEPH_CONF", raising=False)
    assert child_url("rados://kv/gw?client=x", "kvcache") == "rados://kv/gw/kvcache?client=client.x"
