"""`bench store` on a shape so small that it takes seconds: what it writes, and that it says what it measured."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from objectcache.bench.bars import judge
from objectcache.bench.machine import child_pids
from objectcache.bench.report import show, show_verdicts
from objectcache.bench.result import MIN_PAIRS, BenchmarkResult, ratio_row
from objectcache.bench.shapes import ModelShape
from objectcache.bench.store import BARS, StoreSettings, run_store
from objectcache.bench.store.prefill import Prefilled
from objectcache.bench.store.rows import alone, beside_bare, prefill_rows, storing, summary_of
from objectcache.cli.bench import app
from objectcache.cli.bench import store as command
from objectcache.errors import ConfigError

TINY = ModelShape("tiny", "tiny", num_layers=3, num_kv_heads=1, head_dim=16, dtype_bytes=2)
SETTINGS = StoreSettings(
    context=128, prefills=2, pairs=2, staging_bytes=8 << 20, segment_chunks=4, warm_rounds=1, quick=True, shape=TINY
)
# prefills × chunks × layers × K and V × head_dim × bytes × tokens
PAYLOAD_BYTES = 2 * 128 // 16 * 3 * 2 * 16 * 2 * 16


@pytest.fixture(scope="module", params=["direct", "gateway"])
def result(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BenchmarkResult]:
    """One run; afterwards nothing of it is left."""
    data = tmp_path_factory.mktemp("data")
    before, cores = child_pids(os.getpid()), os.sched_getaffinity(0)
    yield run_store(replace(SETTINGS, data=data, through=request.param), quiet())
    assert child_pids(os.getpid()) == before
    assert os.sched_getaffinity(0) == cores
    assert list(data.iterdir()) == []


def quiet() -> Console:
    return Console(file=io.StringIO(), width=120)


def test_the_json_has_rows_with_samples_and_a_summary(result: BenchmarkResult, tmp_path: Path) -> None:
    result.write(tmp_path / "result.json")
    data = json.loads((tmp_path / "result.json").read_text())
    assert data["benchmark"] == "store"
    assert str(tmp_path.parent) not in json.dumps(data)
    names = [row["name"] for row in data["rows"]]
    assert len(set(names)) == len(names)
    assert set(data["summary"]) == {
        *("prefill_slowdown", "prefill_slowdown_raw", "stored_fraction", "dropped_fraction"),
        *("prefill_slowdown_double", "prefill_slowdown_double_raw"),
        *("stored_fraction_double", "dropped_fraction_double"),
        "rate_over_raw",
    }
    assert {bar.key for bar in BARS} <= set(data["summary"])
    assert result.row("prefill, storing")["payload_bytes"] == PAYLOAD_BYTES


def test_all_of_it_is_stored_or_counted_as_dropped(result: BenchmarkResult) -> None:
    for which in ("", ", at twice the rate"):
        stored, dropped = result.row(f"stored{which}"), result.row(f"dropped{which}")
        assert [a + b for a, b in zip(stored["samples"], dropped["samples"], strict=True)] == pytest.approx([1.0] * 2)
    assert result.summary["stored_fraction"] > 0


def test_what_is_compared_was_measured_in_turn(result: BenchmarkResult) -> None:
    prefills = [way(suffix) for suffix in ("", "_double") for way in (alone, beside_bare, storing)]
    ways = ["raw loop beside a busy core", *prefills]
    at_s = [result.row(way)["at_s"] for way in ways]
    in_turn = [times[pair] for pair in range(SETTINGS.pairs) for times in at_s]
    assert in_turn == sorted(in_turn)
    expected = ratio_row("", result.row(storing("")), result.row(alone("")))
    assert result.row("slowdown")["samples"] == expected["samples"]
    assert result.summary["prefill_slowdown"] == expected["median"]
    control = ratio_row("", result.row(beside_bare("")), result.row(alone("")))
    assert result.summary["prefill_slowdown_raw"] == control["median"]


def test_it_can_be_shown_and_drawn(result: BenchmarkResult, tmp_path: Path) -> None:
    console = quiet()
    show(console, result)
    show_verdicts(console, judge(BARS, result.summary))
    assert isinstance(console.file, io.StringIO)
    assert all(row["name"] in console.file.getvalue() for row in result.rows)
    plot = pytest.importorskip("objectcache.bench.store.plot", reason="matplotlib is not installed")
    plot.draw(result, tmp_path / "result.png")
    assert (tmp_path / "result.png").read_bytes().startswith(b"\x89PNG")


def test_the_arithmetic() -> None:
    runs = {
        alone(""): [Prefilled(0.0, 2.0, 10**9), Prefilled(5.0, 1.0, 10**9)],
        beside_bare(""): [Prefilled(2.0, 2.2, 10**9, waited_s=0.55), Prefilled(6.0, 1.2, 10**9)],
        storing(""): [
            Prefilled(2.0, 3.0, 10**9, stored=1.0, cpu_s=0.5, call_s=(1e-5, 3e-5)),
            Prefilled(6.0, 1.1, 10**9, stored=0.5, dropped=0.5, cpu_s=0.7),
        ],
    }
    rows = prefill_rows(runs, "", 0.0)
    found = {row["name"]: row for row in rows}
    assert found["slowdown"]["samples"] == pytest.approx([1.5, 1.1])
    assert found["prefill alone: KV produced"]["samples"] == [0.5, 1.0]
    waited = found["prefill, bare copy: waiting for its core"]
    assert waited["samples"] == pytest.approx([0.25, 0.0])
    assert found["prefill, storing: handing over a layer"]["p50"] == pytest.approx(20)
    assert summary_of(rows, "") == pytest.approx(
        {
            "prefill_slowdown": 1.3,
            "prefill_slowdown_raw": 1.15,
            "stored_fraction": 0.75,
            "dropped_fraction": 0.25,
        }
    )


def test_settings_that_cannot_be() -> None:
    for wrong in ({"context": 70}, {"pairs": 0}, {"through": "air"}, {"python_share": 1.0}, {"rate": 0.0}):
        with pytest.raises(ConfigError):
            replace(SETTINGS, **wrong)
    with pytest.raises(ConfigError, match=f"at least {MIN_PAIRS} pairs"):
        replace(SETTINGS, quick=False)


@pytest.mark.parametrize(("stored", "code"), [(1.0, 0), (0.5, 1)])
def test_check_decides_the_exit_status(monkeypatch: pytest.MonkeyPatch, stored: float, code: int) -> None:
    seen: list[StoreSettings] = []

    def run(settings: StoreSettings, console: Console) -> BenchmarkResult:
        seen.append(settings)
        reached = {bar.key: 1.0 if bar.at_most else stored for bar in BARS}
        machine: dict[str, object] = dict.fromkeys(("cpu", "kernel", "filesystem"), "") | {
            "cores": 2,
            "memory_bytes": 1,
            "load_average": 0.0,
        }
        return BenchmarkResult("store", {}, machine, quick=True, summary=reached)

    monkeypatch.setattr(command, "run_store", run)
    arguments = ["store", "--quick", "--through", "gateway", "--rate", "0.5", "--staging-mib", "64", "--check"]
    ended = CliRunner().invoke(app, arguments)
    assert ended.exit_code == code
    assert (seen[0].through, seen[0].rate, seen[0].staging_bytes) == ("gateway", 0.5, 64 << 20)
