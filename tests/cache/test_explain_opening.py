"""How a directory is opened to be explained, what travels, and the rules of matching once more."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache import KeyChain, KVGroup, KVShard, MatchRule, PartId
from objectcache.cache.explain import (
    Explainer,
    Explanation,
    ListRequest,
    Reason,
    WhyRequest,
    answer,
    open_explainer,
    opening,
)
from objectcache.cache.explain.codec import decode, encode
from objectcache.cache.explain.holdings import Holding, longest_match
from objectcache.catalog import Catalog
from objectcache.errors import (
    ConfigError,
    RequestError,
)
from tests.cache.explaining import CHUNK, World, hybrid_layout, namespace_of, prompt


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "cache")


# -- opening ------------------------------------------------------------------------------------------


@pytest.fixture
def no_rebuild(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(store: object) -> Any:
        raise AssertionError("a catalog was at hand")

    monkeypatch.setattr(opening, "_temporary", refuse)


@pytest.mark.usefixtures("no_rebuild")
def test_the_catalog_at_hand_is_read(world: World) -> None:
    namespace = namespace_of()
    world.store(namespace, prompt(4))
    assert world.why(namespace, prompt(4)).matched_tokens == 16


def test_a_catalog_that_is_open_in_this_process_or_lost_is_done_without(world: World) -> None:
    namespace = namespace_of()
    world.store(namespace, prompt(4))
    with world.open(), open_explainer(world.root) as explainer:
        request = WhyRequest(namespace=namespace.digest.hex(), tokens=tuple(prompt(4)))
        assert explainer.why(request).reason is Reason.ALL_MATCHED
    shutil.rmtree(world.root / "catalog")
    with open_explainer(world.root) as explainer:
        assert explainer.why(request).reason is Reason.ALL_MATCHED
        (info,) = explainer.list(ListRequest()).namespaces
        assert (info.segments, info.last_used_s) == (1, None)
    assert not (world.root / "catalog").exists()


def test_a_catalog_that_is_behind_is_not_believed(world: World, tmp_path: Path) -> None:
    namespace = namespace_of()
    world.store(namespace, prompt(2))
    behind = tmp_path / "behind"
    (world.root / "catalog").rename(behind)
    world.store(namespace, prompt(4), cuts=(2, 4))
    shutil.rmtree(world.root / "catalog")
    behind.rename(world.root / "catalog")
    assert world.why(namespace, prompt(4)).matched_tokens == 16


@pytest.mark.usefixtures("no_rebuild")
def test_the_catalog_that_is_up_to_date_is_taken(world: World, tmp_path: Path) -> None:
    namespace = namespace_of()
    world.store(namespace, prompt(2))
    behind = tmp_path / "behind"
    (world.root / "catalog").rename(behind)
    world.store(namespace, prompt(4), cuts=(2, 4))
    (world.root / "catalog").rename(world.root / "catalog-1")
    behind.rename(world.root / "catalog")
    with open_explainer(world.root) as explainer:
        assert explainer.list(ListRequest()).total_chunks == 4


def test_a_catalog_that_a_power_failure_may_have_torn_is_not_read(world: World) -> None:
    namespace = namespace_of()
    world.store(namespace, prompt(2))
    path = world.root / "catalog" / "state.json"
    state = json.loads(path.read_bytes())
    path.write_text(json.dumps(state | {"clean": False, "boot_id": "before"}))
    with open_explainer(world.root) as explainer:
        (info,) = explainer.list(ListRequest()).namespaces
    assert (info.segments, info.last_used_s) == (1, None)


def test_where_the_cache_is(tmp_path: Path) -> None:
    gateway_data = tmp_path / "gateway"
    for bucket in ("first", "second"):
        World(gateway_data / bucket).store(namespace_of(), prompt(2))
        if bucket == "first":
            assert opening.find_cache(gateway_data) == gateway_data / "first"
    for wrong, said in (
        (gateway_data, f"give one of: {gateway_data / 'first'}, {gateway_data / 'second'}"),
        (tmp_path / "nowhere", "there is no cache"),
        (gateway_data / "first" / "catalog", "neither it nor a directory in it"),
    ):
        with pytest.raises(ConfigError, match=said), open_explainer(wrong):
            pass
    assert not (tmp_path / "nowhere").exists()


def test_nothing_is_changed(world: World) -> None:
    world.store(namespace_of(), prompt(4))

    def files() -> set[tuple[str, int]]:
        paths = (path for path in world.root.rglob("*") if path.is_file() and path.name != "lock.mdb")
        return {(str(path), path.stat().st_mtime_ns) for path in paths}

    before = files()
    with open_explainer(world.root) as explainer:
        explainer.list(ListRequest(segments=True))
        explainer.why(WhyRequest(key="0" * 8))
    assert files() == before


# -- on the wire --------------------------------------------------------------------------------------


class _OverNothing(Explainer):
    def __init__(self) -> None:
        pass


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"ask": "list"}', "version None"),
        (b'{"version": 1, "ask": "delete"}', "'delete' is not known"),
        (b'{"version": 1, "ask": "inspect"}', "lacks a field"),
        (b'{"version": 1, "ask": "inspect", "what": 5}', "explain.what is not"),
        (b'{"version": 1, "ask": "list", "limit": true}', "explain.limit is not"),
        (b'{"version": 1, "ask": "why", "tokens": [1, "2"]}', "explain.tokens\\[1\\] is not"),
        (b'{"version": 1, "ask": "why", "tokens": [1, null]}', "explain.tokens\\[1\\] is not"),
        (b'{"version": 1, "ask": "why", "tokens": "12"}', "explain.tokens is not"),
        (b'{"version": 1, "ask": "why", "namespace": "{}", "tokens": [1]}', "not a namespace"),
        (b'{"version": 1, "ask": "why", "tokens": [-1], "namespace": "{}"}', "not a namespace"),
    ],
)
def test_malformed_requests(body: bytes, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        answer(_OverNothing(), body)


def test_answers_come_back_as_they_were(world: World) -> None:
    stored = namespace_of(hybrid_layout())
    names = world.store(stored, prompt(6), cuts=(0, 2, 4, 6))
    world.remove(names[1])
    for asked in (stored, namespace_of(hybrid_layout(), epoch=2)):
        found = world.why(asked, prompt(6))
        data = json.loads(encode(found, newer=1))
        assert decode(Explanation, data, "explanation") == found
        assert asdict(found) == asdict(decode(Explanation, data, "explanation"))


# -- the rules of matching ----------------------------------------------------------------------------


def _holding(rule: MatchRule, window: int, size: int, stored: Iterable[int]) -> Holding:
    runs: list[list[int]] = []
    for chunk in sorted(stored):
        if runs and runs[-1][1] == chunk:
            runs[-1][1] += 1
        else:
            runs.append([chunk, chunk + 1])
    shard = KVShard(0, (0,), (1,))
    group = KVGroup(rule.value, size, (shard,), rule, window)
    return Holding(PartId(0, 0), group, shard, KeyChain(), tuple((first, stop) for first, stop in runs))


_CHUNKS = st.sets(st.integers(0, 11))


@given(_CHUNKS, _CHUNKS, st.sets(st.integers(0, 5)), st.integers(1, 12), st.integers(0, 12))
def test_the_longest_match_is_by_each_rule(
    full: set[int], window: set[int], states: set[int], window_tokens: int, keys: int
) -> None:
    """Chunks of one token, states every two tokens."""
    held = [
        _holding(MatchRule.PREFIX, 0, 1, full),
        _holding(MatchRule.WINDOW, window_tokens, 1, window),
        _holding(MatchRule.STATE, 0, 2, states),
    ]

    def allowed(tokens: int) -> bool:
        seen = range(max(0, tokens - window_tokens), tokens)
        return full.issuperset(range(tokens)) and window.issuperset(seen) and (not tokens or tokens // 2 - 1 in states)

    expected = max(tokens for tokens in range(0, keys + 1, 2) if allowed(tokens))
    assert longest_match(held, keys, 2) == expected


@given(_CHUNKS, st.integers(0, 12), st.integers(0, 12))
def test_what_is_missing_of_a_range(stored: set[int], first: int, stop: int) -> None:
    held = _holding(MatchRule.PREFIX, 0, CHUNK, stored)
    missing = [chunk for chunk in range(first, stop) if chunk not in stored]
    assert held.first_missing(first, stop) == (missing[0] if missing else None)
    assert held.last_missing(first, stop) == (missing[-1] if missing else None)
    assert held.holds(first, stop) is not bool(missing)
    assert held.next_stored(first) == min((chunk for chunk in stored if chunk >= first), default=None)


def test_the_catalog_is_closed_afterwards(world: World) -> None:
    world.store(namespace_of(), prompt(2))
    with open_explainer(world.root):
        pass
    Catalog.open(world.root / "catalog").close()
