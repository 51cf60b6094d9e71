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
from objectcache.bench.retrieve import BARS, RetrieveSettings, run_retrieve
from objectcache.bench.retrieve.rows import first_layer_row, growth_mib, ratio_of, transfer_rows
from objectcache.bench.retrieve.run import _Run
from objectcache.bench.retrieve.workload import bench_namespace, random_chain, store_prefix
from objectcache.bench.shapes import SHAPES, ModelShape
from objectcache.bench.transfer import Transfer
from objectcache.cli.bench import app, options
from objectcache.cli.bench import retrieve as command
from objectcache.errors import ConfigError
from objectcache.opening import open_cache

TINY = ModelShape("tiny", "tiny", num_layers=3, num_kv_heads=1, head_dim=16, dtype_bytes=2)
TINY_MLA = ModelShape("tiny-mla", "tiny MLA", num_layers=4, num_kv_heads=0, head_dim=20, dtype_bytes=2)
SETTINGS = RetrieveSettings(
    shapes=(TINY, TINY_MLA),
    contexts=(64, 192),
    pairs=2,
    streams=2,
    segment_chunks=8,  # the short context ends within a segment, the long one needs two
    most_bytes=2 * 192 // 16 * 1024,  # two of three layers of the long context
    quick=True,
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
        "tcp_ratio",
        "tcp_ratio_unverified",
        "shm_ratio",
        "first_layer_factor",
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
    for key in ("tcp_ratio", "tcp_ratio_unverified"):
        assert set(data["summary"][key]) == {"tiny/64", "tiny/192", "tiny-mla/64", "tiny-mla/192"}


def test_what_is_compared_was_measured_in_turn(result: BenchmarkResult) -> None:
    for ways in (
        ["raw loop, tiny/64", "layerwise, tiny/64", "layerwise, unverified, tiny/64"],
        ["raw loop, tiny/192", "layerwise, tiny/192", "layerwise, unverified, tiny/192"],
        [
            "raw loop between listings, tiny/64",
            "layerwise beside listings, tiny/64",
            "raw loop beside listings, tiny/64",
        ],
    ):
        at_s = [result.row(way)["at_s"] for way in ways]
        in_turn = [times[pair] for pair in range(SETTINGS.pairs) for times in at_s]
        assert in_turn == sorted(in_turn)
        assert in_turn[0] == 0.0


@pytest.mark.parametrize(
    ("key", "of", "over"),
    [
        ("goodput_ratio", "layerwise, tiny/64", "raw loop, tiny/64"),
        ("goodput_ratio_busy", "layerwise beside listings, tiny/64", "raw loop between listings, tiny/64"),
        ("goodput_ratio_busy_same_load", "layerwise beside listings, tiny/64", "raw loop beside listings, tiny/64"),
    ],
)
def test_ratios_are_of_the_pairs(result: BenchmarkResult, key: str, of: str, over: str) -> None:
    expected = ratio_row("", result.row(of), result.row(over))
    (row,) = [row for row in result.rows if (row.get("of"), row.get("over")) == (of, over)]
    assert row["samples"] == expected["samples"]
    assert result.summary[key] == row["median"]


def test_every_shape_and_context_has_its_ratios(result: BenchmarkResult) -> None:
    for key, way in (("tcp_ratio", "layerwise"), ("tcp_ratio_unverified", "layerwise, unverified")):
        for name, median in result.summary[key].items():
            row = result.row(f"{way} / raw loop, {name}")
            assert (row["median"], row["pairs"]) == (median, SETTINGS.pairs)
            assert result.row(f"{way}, {name}: receiver CPU")["median"] >= 0


def test_long_contexts_have_fewer_layers_and_say_so(result: BenchmarkResult) -> None:
    short, long = result.row("layerwise, tiny/64"), result.row("layerwise, tiny/192")
    assert (short["layers"], short["of_layers"]) == (3, 3)
    assert (long["layers"], long["of_layers"]) == (2, 3)
    for row, context in ((short, 64), (long, 192)):
        assert row["payload_bytes"] == context // 16 * row["slice_bytes"] * row["layers"]
    assert result.row("raw loop, tiny/192")["payload_bytes"] == long["payload_bytes"]


def test_the_shapes_are_those_of_the_models() -> None:
    slices = {key: (shape.slice_bytes, shape.num_layers) for key, shape in SHAPES.items()}
    assert slices == {"llama-8b": (64 << 10, 32), "llama-70b-tp8": (8 << 10, 80), "mla-61": (18 << 10, 61)}


def test_every_measurement_is_there(result: BenchmarkResult) -> None:
    landed = result.row("layerwise, tiny/64: layers landed, a median run")["samples"]
    assert landed == sorted(landed)
    assert len(landed) == TINY.num_layers
    for streams in ("1 connection", "2 connections"):
        row = result.row(f"first byte, {streams}")
        assert (row["segments"], row["chunks"]) == (2, 4)
        assert row["p50"] <= row["p99"] <= row["max"]
    assert result.row("plan: resolve, and all layer runs")["layer_runs"] == 3 * TINY.num_layers
    assert result.row("anonymous memory during 64: worker 0")["median"] > 1
    assert len(result.row("layerwise beside listings, tiny/64: listings served")["samples"]) == SETTINGS.pairs


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


@pytest.mark.parametrize("options", [{"target": "http"}, {"receiver": "process", "verify": ("all", "sampled")}])
def test_other_ways_to_receive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    for part in ("memory", "first_byte", "plan", "beside_listings", "shared_memory"):  # the same for all ways
        monkeypatch.setattr(_Run, part, lambda *arguments: None)
    settings = replace(SETTINGS, data=tmp_path, shapes=(TINY,), contexts=(64,), pairs=1, **options)
    result = run_retrieve(settings, quiet())
    assert result.row("layerwise, tiny/64")["median"] > 0
    assert ("tcp_ratio_sampled" in result.summary) is ("sampled" in settings.verify)
    assert result.options["receiver"] == settings.receiver


def test_settings_that_cannot_be() -> None:
    for wrong in (
        {"contexts": ()},
        {"contexts": (192, 64)},
        {"contexts": (70,)},
        {"pairs": 0},
        {"segment_chunks": 0},
        {"shapes": ()},
        {"verify": ("off",)},
    ):
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
    assert done.first_layer_factor(0.0) == pytest.approx(1.5)  # a quarter of the time would have been 0.5 s
    assert done.first_layer_factor(0.25) == pytest.approx(1.0)
    assert (done.sender_cpu_s_per_gb, done.receiver_cpu_s_per_gb) == (0.5, 0.25)


def test_rows_of_transfers_tell_the_order_and_pair_up() -> None:
    measured = {
        "raw loop": [transfer(10.0, 1.0), transfer(14.0, 2.0)],
        "layerwise": [transfer(12.0, 2.0, (0.5, 2.0)), transfer(17.0, 2.5, (1.0, 2.5))],
    }
    rows = {row["name"]: row for row in transfer_rows("x/2K", measured, {"layers": 2})}
    assert rows["raw loop, x/2K"]["at_s"] == [0.0, 4.0]
    assert rows["layerwise, x/2K"]["at_s"] == [2.0, 7.0]
    assert rows["layerwise, x/2K"]["samples"] == [2.0, 1.6]
    assert rows["layerwise, x/2K: request answered"]["samples"] == [250.0, 250.0]
    assert "raw loop, x/2K: first layer" not in rows
    assert "layerwise, x/2K: listings served" not in rows
    assert ratio_of("x/2K", list(rows.values()), "layerwise", "raw loop")["samples"] == [0.5, 0.8]
    factor = first_layer_row("x/2K", "layerwise", measured["layerwise"], 100.0)
    assert factor["samples"] == [pytest.approx(0.4), pytest.approx(0.72)]


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
    arguments = ["retrieve", "--quick", "--contexts", "64,128", "--verify", "all", "--check", "--json", str(out)]
    ended = CliRunner().invoke(app, arguments)
    assert ended.exit_code == code
    assert ("missed" in ended.output) is bool(code)
    assert (seen[0].contexts, seen[0].verify, seen[0].quick) == ((64, 128), ("all",), True)
    assert json.loads(out.read_text())["summary"]["goodput_ratio"] == ratio


def test_contexts_that_are_no_numbers() -> None:
    ended = CliRunner().invoke(app, ["retrieve", "--contexts", "4K"])
    assert isinstance(ended.exception, ConfigError)
