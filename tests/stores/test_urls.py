"""From URLs to stores."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from objectcache.errors import ConfigError
from objectcache.stores import FileStore, open_store

WITHOUT_RADOS = """
import sys
sys.modules["rados"] = None
from objectcache.errors import ConfigError
from objectcache.stores import open_store
open_store("memory://a").close()
try:
    open_store("rados://pool/kv")
except ConfigError as error:
    print(error)
"""


def test_without_rados_it_says_what_to_install() -> None:
    command = [sys.executable, "-c", WITHOUT_RADOS]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "apt-get install python3-rados" in ended.stdout
    assert sysconfig.get_path("platlib") in ended.stdout


@pytest.mark.parametrize("name", ["plain", "with space", "é#?%41&"])
def test_a_file_stores_url_opens_it_again(tmp_path: Path, name: str) -> None:
    with FileStore(tmp_path / name, limit_bytes=1000) as store:
        store.put("a", b"1")
        assert store.url.startswith("file:///")
        with open_store(store.url, limit_bytes=500) as again:
            assert again.get("a") == b"1"
            assert again.url == store.url
            assert again.usage().limit_bytes == 500
    assert (tmp_path / name / "objects").is_dir()


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    expected = {
        str(tmp_path / "abs"): "abs",
        "rel": "rel",
        "./a:b": "a:b",
        "~/kv": "home/kv",
        "FILE://localhost" + str(tmp_path / "host"): "host",
    }
    for url, path in expected.items():
        with open_store(url) as store:
            assert store.url == (tmp_path / path).as_uri()


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "s4://bucket",
            "a:b",
            "file:",
            "file:/a",
            "file://",
            "file://host/a",
            "file://a",
            "file:///a?b",
            "file:///a#b",
        ),
        *("file:///%00", "a\0b", "memory:", "memory://", "memory://a/b", "memory://é", "/" + "x" * 600, "/dev/null"),
        *("/dev/null/a",),
    ],
)
def test_wrong_urls(url: str) -> None:
    with pytest.raises(ConfigError):
        open_store(url)


def test_an_unknown_scheme_is_told_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"file://.*memory://"):
        open_store("gopher://kv")


def test_a_negative_limit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        open_store(str(tmp_path), limit_bytes=-1)
