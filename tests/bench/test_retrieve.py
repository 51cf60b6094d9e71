"""`bench retrieve` on a shape so small that it takes seconds: what it writes, and that it says what it measured."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from objectcache.bench.bars import judge
from objectcache.bench.errors import BenchmarkError
from objectcache.bench.machine import child_pids
from objectcache.bench.raw_sender import PIECE_BYTES, cut
from objectcache.bench.report import show, show_verdicts
from objectcache.bench.result import MIN_PAIRS, BenchmarkResult, ratio_row
from objectcache.bench.retrieve import BARS, ModelShape, RetrieveSettings, run_retrieve
from objectcache.bench.retrieve.rows import growth_mib, ratio_of, transfer_rows
from objectcache.bench.retrieve.workload import bench_namespace, random_chain, store_prefix
from objectcache.bench.transfer import Transfer
from objectcache.cli.bench import app, options
from objectcache.cli.bench import retrieve as command
from objectcache.errors import ConfigError
from objectcache.opening import open_cache

TINY = ModelShape("tiny", num_layers=3, num_kv_heads=1, head_dim=16, dtype_bytes=2)
SETTINGS = RetrieveSettings(
    contexts=(64, 192),
    pairs=2,
    streams=2,
    segment_chunks=8,  # the short context ends within a segment, the long one needs two
    quick=True,
    shape=TINY,
    first_byte_requests=3,
    first_byte_segment_chunks=2,
    plan_segments=3,
    plan_segment_chunks=2,
    plan_rounds=3,
    listed_objects=5,
)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BenchmarkResult]:
    """One run; afterwards nothing of it is left."""
    data = tmp_path_factory.mktemp("data")
    before = child_pids(os.getpid())
    yield run_retrieve(replace(SETTINGS, data=data), quiet())
    assert child_pids(os.getpid()) == before
    assert list(data.iterdir()) == []


def quiet() -> Console:
    return Console(file=io.StringIO(), width=120)


def written(result: BenchmarkResult, tmp_path: Path) -> dict[str, Any]:
    result.write(tmp_path / "result.json")
    read: dict[str, Any] = json.loads((tmp_path / "result.json").read_text())
    return read


def test_the_json_has_rows_with_samples_and_a_summary(result: BenchmarkResult, tmp_path: Path) -> None:
    data = written(result, tmp_path)
    assert data["benchmark"] == "retrieve"
    assert data["quick"] is True
    assert data["options"]["contexts"] == [64, 192]
    assert str(tmp_path.parent) not in json.dumps(data)
    names = [row["name"] for row in data["rows"]]
    assert len(set(names)) == len(names)
    for row in data["rows"]:
        assert row["min"] <= row["median"] <= row["max"]
        assert len(row["samples"]) > 0
    assert set(data["summary"]) == {
        "goodput_ratio",
        "goodput_ratio_busy",
        "goodput_ratio_busy_same_load",
        "first_byte_ms",
        "first_byte_p99_ms",
        "first_byte_unsigned_ms",
        "first_byte_beside_ms",
        "first_byte_beside_p99_ms",
        "plan_ms",
        "gateway_anon_growth_mib",
    }
    assert {bar.key for bar in BARS} <= set(data["summary"])


def test_what_is_compared_was_measured_in_turn(result: BenchmarkResult) -> None:
    for ways in (
        ["raw loop, 64", "layerwise, 64"],
        ["raw loop, 192", "layerwise, 192"],
        ["raw loop between listings, 192", "layerwise beside listings, 192", "raw loop beside listings, 192"],
    ):
        at_s = [result.row(way)["at_s"] for way in ways]
        in_turn = [times[pair] for pair in range(SETTINGS.pairs) for times in at_s]
        assert in_turn == sorted(in_turn)
        assert in_turn[0] == 0.0


@pytest.mark.parametrize(
    ("key", "of", "over"),
    [
        ("goodput_ratio", "layerwise, 192", "raw loop, 192"),
        ("goodput_ratio_busy", "layerwise beside listings, 192", "raw loop between listings, 192"),
        ("goodput_ratio_busy_same_load", "layerwise beside listings, 192", "raw loop beside listings, 192"),
    ],
)
def test_ratios_are_of_the_pairs(result: BenchmarkResult, key: str, of: str, over: str) -> None:
    expected = ratio_row("", result.row(of), result.row(over))
    (row,) = [row for row in result.rows if (row.get("of"), row.get("over")) == (of, over)]
    assert row["samples"] == expected["samples"]
    assert result.summary[key] == row["median"]


def test_every_measurement_is_there(result: BenchmarkResult) -> None:
    payload = 192 // 16 * 3 * 2 * 16 * 2 * 16  # chunks × layers × K and V × head_dim × dtype bytes × tokens
    assert result.row("layerwise, 192")["payload_bytes"] == payload == result.row("raw loop, 192")["payload_bytes"]
    landed = result.row("layerwise, 192: layers landed, a median run")["samples"]
    assert landed == sorted(landed)
    assert len(landed) == TINY.num_layers
    for streams in ("1 connection", "2 connections"):
        row = result.row(f"first byte, {streams}")
        assert (row["segments"], row["chunks"]) == (2, 4)
        assert row["p50"] <= row["p99"] <= row["max"]
    assert result.row("plan: resolve, and all layer runs")["layer_runs"] == 3 * TINY.num_layers
    assert result.row("anonymous memory during 192: worker 0")["median"] > 1
    assert len(result.row("layerwise beside listings, 192: listings served")["samples"]) == SETTINGS.pairs


def test_it_can_be_shown_and_drawn(result: BenchmarkResult, tmp_path: Path) -> None:
    console = quiet()
    show(console, result)
    show_verdicts(console, judge(BARS, result.summary))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "quick run" in text
    assert all(row["name"] in text for row in result.rows)
    assert all(bar.rule in text for bar in BARS)
    plot = pytest.importorskip("objectcache.bench.retrieve.plot", reason="matplotlib is not installed")
    plot.draw(result, tmp_path / "plots" / "result.png")
    assert (tmp_path / "plots" / "result.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("options", [{"target": "http"}, {"receiver": "process", "verify": False}])
def test_other_ways_to_receive(tmp_path: Path, options: dict[str, Any]) -> None:
    settings = replace(SETTINGS, data=tmp_path, contexts=(64,), pairs=1, **options)
    result = run_retrieve(settings, quiet())
    assert result.row("layerwise, 64")["median"] > 0
    assert result.options["receiver"] == settings.receiver


def test_settings_that_cannot_be() -> None:
    for wrong in ({"contexts": ()}, {"contexts": (192, 64)}, {"contexts": (70,)}, {"pairs": 0}, {"segment_chunks": 0}):
        with pytest.raises(ConfigError):
            replace(SETTINGS, **wrong)
    with pytest.raises(ConfigError, match=f"at least {MIN_PAIRS} pairs"):
        replace(SETTINGS, quick=False)


# -- arithmetic ---------------------------------------------------------------------------------------


def transfer(started_s: float, seconds: float, landed_s: tuple[float, ...] = ()) -> Transfer:
    answered_s = 0.25 if landed_s else None
    return Transfer(started_s, seconds, 4_000_000_000, 2.0, 1.0, answered_s=answered_s, landed_s=landed_s)


def test_a_transfer_in_figures() -> None:
    done = transfer(0.0, 2.0, (0.75, 1.25, 1.5, 2.0))
    assert done.goodput_gb_s == 2.0
    assert done.first_layer_ms == 750
    assert done.first_layer_factor == pytest.approx(1.5)  # a quarter of the time would have been 0.5 s
    assert (done.sender_cpu_s_per_gb, done.receiver_cpu_s_per_gb) == (0.5, 0.25)


def test_rows_of_transfers_tell_the_order_and_pair_up() -> None:
    measured = {
        "raw loop": [transfer(10.0, 1.0), transfer(14.0, 2.0)],
        "layerwise": [transfer(12.0, 2.0, (0.5, 2.0)), transfer(17.0, 2.5, (1.0, 2.5))],
    }
    rows = {row["name"]: row for row in transfer_rows(2048, measured)}
    assert rows["raw loop, 2K"]["at_s"] == [0.0, 4.0]
    assert rows["layerwise, 2K"]["at_s"] == [2.0, 7.0]
    assert rows["layerwise, 2K"]["samples"] == [2.0, 1.6]
    assert rows["layerwise, 2K: request answered"]["samples"] == [250.0, 250.0]
    assert "raw loop, 2K: first layer" not in rows
    assert "layerwise, 2K: listings served" not in rows
    assert ratio_of(2048, list(rows.values()), "layerwise", "raw loop")["samples"] == [0.5, 0.8]


def test_growth_is_from_the_first_sample_to_the_largest() -> None:
    mib = 1 << 20
    samples = {
        "before": [{"control": 10 * mib, "worker 0": 5 * mib}],
        "during": [{"control": 10 * mib, "worker 0": 8 * mib}, {"control": 11 * mib, "worker 0": 5 * mib}],
        "after": [{"control": 9 * mib, "worker 0": 5 * mib}],
    }
    assert growth_mib(samples) == 3.0


def test_ranges_are_cut_in_pieces_that_follow_one_another() -> None:
    pieces = cut([(3, 100, PIECE_BYTES + 5), (4, 0, 7)])
    assert [tuple(piece) for piece in pieces] == [
        (3, 100, PIECE_BYTES, 0),
        (3, 100 + PIECE_BYTES, 5, PIECE_BYTES),
        (4, 0, 7, PIECE_BYTES + 5),
    ]


def test_what_arrives_is_compared_with_what_was_stored(tmp_path: Path) -> None:
    namespace = bench_namespace(TINY, seed=1)
    chain = random_chain(namespace, 5, seed=1)
    with open_cache(f"file://{tmp_path}") as cache:
        prefix = store_prefix(cache, namespace, chain, 2, seed=1, stored=lambda: None)
        assert [header.num_chunks for header in prefix.headers] == [2, 2, 1]
        with cache.retrieve(cache.match(namespace, chain[:3])) as retrieval:
            list(retrieval)
            prefix.check(retrieval)
            with pytest.raises(BenchmarkError, match="is not what was stored"):
                replace(prefix, seed=2).check(retrieval)


# -- the command line ---------------------------------------------------------------------------------


def test_the_command_names_what_is_missing_before_it_measures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(options, "find_spec", lambda name: None)
    ended = CliRunner().invoke(app, ["retrieve", "--plot", str(tmp_path / "x.png")])
    assert isinstance(ended.exception, ConfigError)
    assert "objectcache[plot]" in str(ended.exception)


@pytest.mark.parametrize(("ratio", "code"), [(0.9, 0), (0.1, 1)])
def test_check_decides_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, result: BenchmarkResult, ratio: float, code: int
) -> None:
    seen: list[RetrieveSettings] = []

    def run(settings: RetrieveSettings, console: Console) -> BenchmarkResult:
        seen.append(settings)
        reached = {bar.key: 0.0 if bar.at_most else ratio for bar in BARS}
        return replace(result, summary=reached)

    monkeypatch.setattr(command, "run_retrieve", run)
    out = tmp_path / "out.json"
    arguments = ["retrieve", "--quick", "--contexts", "64,128", "--no-verify", "--check", "--json", str(out)]
    ended = CliRunner().invoke(app, arguments)
    assert ended.exit_code == code
    assert ("missed" in ended.output) is bool(code)
    assert (seen[0].contexts, seen[0].verify, seen[0].quick) == ((64, 128), False, True)
    assert json.loads(out.read_text())["summary"]["goodput_ratio"] == ratio


def test_contexts_that_are_no_numbers() -> None:
    ended = CliRunner().invoke(app, ["retrieve", "--contexts", "4K"])
    assert isinstance(ended.exception, ConfigError)
