"""`objectcache merge`, as it is called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import objectcache
from objectcache.cache import replacing
from objectcache.cli.main import app
from objectcache.errors import ConfigError
from objectcache.keys import KeyChain, Namespace
from objectcache.names import SEGMENT_PREFIX
from objectcache.stores import FileStore
from objectcache.testing.synthetic import flat_layout, new_namespace, prompt, retrieve_and_check, store_parts

LAYOUT = flat_layout(2, 1000)
TURNS = 12


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Namespace, KeyChain]:
    """A conversation of TURNS segments in a directory, whose readers are given a moment only."""
    monkeypatch.setattr(replacing, "GRACE_S", 0.3)
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, 4 * TURNS)
    with objectcache.open(str(tmp_path / "kv")) as cache:
        store_parts(cache, namespace, chain, cuts=range(4, len(chain), 4))
    return str(tmp_path / "kv"), namespace, chain


def segments(root: str) -> int:
    with FileStore(Path(root) / "objects") as store:
        return len(list(store.list(SEGMENT_PREFIX)))


def test_a_dry_run_says_what_would_be_done(stored: tuple[str, Namespace, KeyChain]) -> None:
    root, _, _ = stored
    ended = CliRunner().invoke(app, ["merge", root, "--dry-run"])
    assert ended.exit_code == 0, ended.output
    assert "12 of 12 segments" in ended.stdout
    assert "would become 1" in ended.stdout
    assert segments(root) == TURNS


def test_afterwards_there_is_one(stored: tuple[str, Namespace, KeyChain]) -> None:
    root, namespace, chain = stored
    ended = CliRunner().invoke(app, ["merge", f"file://{root}", "--json", "--rate", "200MiB"])
    assert ended.exit_code == 0, ended.output
    told = json.loads(ended.stdout)
    assert (told["segments_before"], told["segments_after"], told["found_runs"]) == (TURNS, 1, 1)
    assert told["counters"]["merged"] == 1
    assert told["counters"]["bytes_rewritten"] > 2 * 1000 * len(chain)
    assert segments(root) == 1, "it waited for the readers, and deleted what was replaced"
    with objectcache.open(root) as cache:
        assert retrieve_and_check(cache, namespace, chain).tokens == len(chain) * 16
    again = CliRunner().invoke(app, ["merge", root])
    assert again.stdout == "nothing to merge in 1 segments\n"


def test_while_another_process_has_it_open(
    stored: tuple[str, Namespace, KeyChain], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replacing, "GRACE_S", 2.0)  # the other follows the log twice a second
    root, namespace, chain = stored
    with objectcache.open(root) as cache:
        match = cache.match(namespace, chain)
        ended = CliRunner().invoke(app, ["merge", root])
        assert ended.exit_code == 0, ended.output
        assert "12 segments became 1" in ended.stdout
        with cache.retrieve(match) as retrieval:
            for _ in retrieval:
                pass


@pytest.mark.parametrize("url", ["", "http://127.0.0.1:9000/kvcache", "memory://x", "/nowhere/at/all"])
def test_what_cannot_be_merged_is_said(url: str) -> None:
    ended = CliRunner().invoke(app, ["merge", url], env={"OBJECTCACHE_URL": ""})
    assert isinstance(ended.exception, ConfigError)


def test_a_rate_is_a_size(stored: tuple[str, Namespace, KeyChain]) -> None:
    for rate in ("fast", "0"):
        ended = CliRunner().invoke(app, ["merge", stored[0], "--rate", rate])
        assert isinstance(ended.exception, ConfigError)


def test_ls_shows_how_fragmented_it_is(stored: tuple[str, Namespace, KeyChain]) -> None:
    root, _, _ = stored
    (info,) = json.loads(CliRunner().invoke(app, ["ls", root, "--json"]).stdout)["namespaces"]
    assert info["median_chunks"] == 4
    assert info["ranges_4k"] == pytest.approx(64.0)
    CliRunner().invoke(app, ["merge", root])
    listing = json.loads(CliRunner().invoke(app, ["ls", root, "--json"]).stdout)
    assert listing["median_chunks"] == 48
    assert listing["namespaces"][0]["ranges_4k"] == pytest.approx(256 / 48)
