"""`bench merge` on a shape so small that it takes seconds."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from objectcache.bench.machine import child_pids
from objectcache.bench.merge import BARS, MergeSettings
from objectcache.bench.merge.rows import MERGED, PATHS, STATES, TURNS, Fetch, fetch_rows, ratio_rows, way
from objectcache.cli.bench import app
from objectcache.errors import ConfigError


def test_a_quick_run(tmp_path: Path) -> None:
    before = child_pids(os.getpid())
    out = tmp_path / "merge.json"
    command = ["merge", "--quick", "--layers", "2", "--turns", "8", "--latency-ms", "2", "--json", str(out)]
    ended = CliRunner().invoke(app, [*command, "--data", str(tmp_path / "data")])
    assert ended.exit_code == 0, ended.output
    result = json.loads(out.read_text())
    assert result["benchmark"] == "merge"
    assert result["quick"]
    assert result["summary"]["ranges_per_layer_turns"] == 8
    assert result["summary"]["ranges_per_layer_merged"] == 1
    assert 1 <= result["summary"]["ranges_per_layer_live"] < 8
    assert 0 < result["summary"]["rewritten_per_byte"] <= 3
    requests = result["summary"]["far_requests"]
    assert requests[MERGED] < requests[TURNS]
    assert {bar.key for bar in BARS} <= result["summary"].keys()
    assert str(tmp_path) not in out.read_text()
    assert list((tmp_path / "data").iterdir()) == []
    assert child_pids(os.getpid()) == before


def test_ratios_are_taken_pair_by_pair() -> None:
    fetches = {
        way(path, state): [Fetch(0.0, seconds * (1 + number), seconds / 4, 1000) for seconds in (1.0, 2.0)]
        for path in PATHS
        for number, state in enumerate(STATES)
    }
    ratios = {row["name"]: row for row in ratio_rows(fetch_rows(fetches, 0.0))}
    assert len(ratios) == 9
    assert ratios["far: goodput merged / turns"]["samples"] == [0.5, 0.5]
    assert ratios["gateway: goodput merged / stored at once"]["samples"] == [1.5, 1.5]
    assert ratios["in-process: first layer turns / merged"]["median"] == 1.0


def test_settings_say_what_is_wrong() -> None:
    with pytest.raises(ConfigError):
        MergeSettings(turns=1)
    with pytest.raises(ConfigError):
        MergeSettings(turn_chunks=0)
    with pytest.raises(ConfigError):
        MergeSettings(pairs=2)
    assert "data" not in MergeSettings(data=Path("/somewhere")).to_dict()
