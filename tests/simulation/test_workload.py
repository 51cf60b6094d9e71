"""Workloads: from files, from traces, and drawn."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.errors import ConfigError
from objectcache.simulation.workload import KINDS, Arrival, BlockCache, Generated, read_workload


def written(path: Path, *lines: dict[str, Any]) -> Path:
    file = path / "workload.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + "\n")
    return file


def test_our_own_lines(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        {"arrival_s": 7.5, "context_tokens": 1000, "hit_rate": 0.5, "node": 3, "tenant": "t", "window_s": 0.002},
        {"arrival_s": 5.0, "context_tokens": 64, "hit_tokens": 16, "output_tokens": 9, "source": "s"},
    )
    assert read_workload(file) == (
        Arrival(0.0, 64, 16, 9, source="s"),
        Arrival(2.5, 1000, 500, node=3, tenant="t", window_s=0.002),
    )
    assert len(read_workload(file, limit=1)) == 1


def test_a_trace_hits_what_came_before(tmp_path: Path) -> None:
    def line(ms: int, tokens: int, ids: list[int]) -> dict[str, Any]:
        return {"timestamp": ms, "input_length": tokens, "output_length": 10, "hash_ids": ids}

    file = written(
        tmp_path,
        line(3000, 1300, [1, 2, 3]),
        line(4000, 1024, [1, 2]),
        line(5000, 2000, [1, 2, 9, 3]),
        line(5250, 2000, [1, 2, 9, 3]),
    )
    assert [(a.arrival_s, a.hit_tokens) for a in read_workload(file)] == [(0, 0), (1, 1023), (2, 1024), (2.25, 1999)]
    assert [a.hit_tokens for a in read_workload(file, visible_s=0.5)] == [0, 1023, 1024, 1024]
    assert [a.hit_tokens for a in read_workload(file, capacity_tokens=1024)] == [0, 1023, 1024, 1024]
    assert [a.hit_tokens for a in read_workload(file, capacity_tokens=0)] == [0, 0, 0, 0]
    assert [a.output_tokens for a in read_workload(file, block_tokens=16)] == [10] * 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("{", "line 1: not JSON"),
        ("[]", "line 1: not an object"),
        ('{"arrival_s": 0, "context_tokens": 5, "hit_tokens": 0}\n{"arrival_s": 1}', "line 2: context_tokens"),
        ('{"arrival_s": 0, "context_tokens": 5}', "one of hit_tokens"),
        ('{"arrival_s": 0, "context_tokens": 5, "hit_tokens": 0, "hit_rate": 0}', "one of hit_tokens"),
        ('{"arrival_s": 0, "context_tokens": 5, "hit_tokens": 5}', "at least one is computed"),
        ('{"arrival_s": NaN, "context_tokens": 5, "hit_tokens": 1}', "arrival_s must be a number"),
        ('{"arrival_s": 0, "context_tokens": true, "hit_tokens": 1}', "context_tokens must be a whole number"),
        ('{"arrival_s": 0, "context_tokens": 5, "hit": 1}', "unknown: hit"),
        ('{"arrival_s": 0, "context_tokens": 5, "hit_tokens": 1, "window_s": -1}', "not negative"),
        ('{"timestamp": 1, "input_length": 5}', "a trace needs"),
        ('{"timestamp": 1, "input_length": 5, "hash_ids": "ab"}', "hash_ids must be a list"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "workload.jsonl"
    file.write_text(text)
    with pytest.raises(ConfigError, match=says):
        read_workload(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_workload(tmp_path / "missing")


@given(st.lists(st.lists(st.integers(0, 12), max_size=6, unique=True), max_size=20), st.integers(0, 15))
def test_the_block_cache_is_a_list_in_order_of_use(requests: list[list[int]], capacity: int) -> None:
    cache, model = BlockCache(capacity), list[int]()
    for blocks in requests:
        hits = next((i for i, block in enumerate(blocks) if block not in model), len(blocks))
        assert cache.request(0.0, blocks) == hits
        used = blocks[::-1]  # the first is used last
        model = ([block for block in model if block not in used] + used)[-capacity:] if capacity else []


@pytest.mark.parametrize("kind", KINDS)
def test_drawn_workloads_are_what_was_asked_for(kind: str) -> None:
    wanted = Generated(kind, 3000, rate=20.0, contexts=(4096, 8192), hits=(0.25, 0.5), seed=5)
    arrivals = wanted.arrivals()
    assert arrivals == wanted.arrivals()
    assert arrivals != Generated(kind, 3000, rate=20.0, contexts=(4096, 8192), hits=(0.25, 0.5), seed=6).arrivals()
    assert len(arrivals) == 3000
    times = [arrival.arrival_s for arrival in arrivals]
    assert times == sorted(times)
    assert 3000 / times[-1] == pytest.approx(20.0, rel=0.25)
    assert max(arrival.context_tokens for arrival in arrivals) <= 8192


def test_bursts_come_at_once() -> None:
    arrivals = Generated("bursts", 500, rate=10.0).arrivals()
    assert max(Counter(arrival.arrival_s for arrival in arrivals).values()) >= 32


def test_turns_go_on_where_the_last_one_ended() -> None:
    last: dict[str, Arrival] = {}
    followed = 0
    for arrival in Generated("conversations", 2000, rate=10.0, contexts=(4096, 65536)).arrivals():
        before = last.get(arrival.source)
        if before is not None:
            assert arrival.hit_tokens == before.context_tokens + before.output_tokens
            followed += 1
        last[arrival.source] = arrival
    assert followed > 500


def test_what_cannot_be_drawn() -> None:
    fine: dict[str, Any] = {"kind": "poisson", "requests": 1, "rate": 1.0}
    for wrong in ({"kind": "waves"}, {"requests": 0}, {"rate": 0.0}, {"contexts": (1,)}, {"hits": (1.5,)}):
        with pytest.raises(ConfigError):
            Generated(**{**fine, **wrong})
