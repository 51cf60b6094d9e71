"""`bench peers` on a shape so small that it takes seconds: with the gateway as a server, and nginx where it is."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

pytest.importorskip("obstore", reason="needs the extra s3")

from objectcache.bench import peers
from objectcache.bench.errors import BenchmarkError
from objectcache.bench.machine import child_pids
from objectcache.bench.peers import BARS, PeersSettings, run_peers
from objectcache.bench.peers.getter import Getter
from objectcache.bench.peers.held import HeldKV
from objectcache.bench.peers.measured import Measured
from objectcache.bench.peers.rows import best, ratio_rows, way_rows
from objectcache.bench.result import MIN_PAIRS, BenchmarkResult, ratio_row
from objectcache.bench.shapes import ModelShape
from objectcache.bench.stores.fetch import Fetch
from objectcache.cli.bench import app
from objectcache.errors import ConfigError
from tests.bench.checking import check_drawn, check_needs_s3, check_turns, quiet, shown, written

TINY = ModelShape("tiny", "tiny", num_layers=4, num_kv_heads=1, head_dim=16, dtype_bytes=2)
CHUNKS = 6
SLICE_BYTES = 2 * 16 * 2 * 16  # K and V × head_dim × dtype bytes × tokens
HAS_NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") is not None
SERVERS = ("nginx", "gateway") if HAS_NGINX else ("gateway",)
SETTINGS = PeersSettings(
    context=CHUNKS * TINY.chunk_tokens,
    pairs=2,
    targets=("tcp", "http"),
    servers=SERVERS,
    parallel=4,
    segment_chunks=4,  # two segments, the second one short
    lmcache_tokens=64,
    quick=True,
    shape=TINY,
)
WAYS = (
    *("raw loop", "layerwise, tcp", "layerwise, http"),
    *(f"a GET per chunk, gateway, {client}" for client in ("threads", "gather")),
    *(f"a ranged GET per slice, gateway, {client}" for client in ("threads", "gather")),
)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BenchmarkResult]:
    """One run; afterwards nothing of it is left."""
    data = tmp_path_factory.mktemp("data")
    before = child_pids(os.getpid())
    yield run_peers(replace(SETTINGS, data=data), quiet())
    assert child_pids(os.getpid()) == before
    assert list(data.iterdir()) == []


def test_the_json_has_rows_with_samples_and_a_summary(result: BenchmarkResult, tmp_path: Path) -> None:
    data = written(result, tmp_path)
    assert (data["benchmark"], data["quick"], data["options"]["servers"]) == ("peers", True, list(SERVERS))
    assert (
        data["summary"].keys()
        == {*("goodput_vs_whole_chunk", "goodput_vs_ranged", "first_layer_vs_whole_chunk")}
        == {bar.key for bar in BARS}
    )


def test_who_was_not_there_is_told(result: BenchmarkResult) -> None:
    assert result.row("LMCache")["not_run"] == "no --lmcache-python"


def test_all_ways_were_measured_in_turn(result: BenchmarkResult) -> None:
    check_turns(result, [f"{way}: goodput" for way in WAYS], pairs=2)


def test_ways_read_all_or_say_of_how_much(result: BenchmarkResult) -> None:
    for way in WAYS:
        row = result.row(f"{way}: goodput")
        layers = 2 if "slice" in way else 4
        assert row["payload_bytes"] == layers * CHUNKS * SLICE_BYTES
        assert (row["layers"], row["of_layers"]) == (layers, 4)
    whole = result.row("a GET per chunk, gateway, threads: first layer")
    assert whole["samples"] == result.row("a GET per chunk, gateway, threads: total")["samples"]
    asked = result.row("a GET per chunk, gateway, threads: last chunk asked for")
    assert all(0 < a < b for a, b in zip(asked["samples"], whole["samples"], strict=True))


def test_ratios_are_of_the_pairs(result: BenchmarkResult) -> None:
    whole = [f"a GET per chunk, {server}, {client}" for server in SERVERS for client in ("threads", "gather")]
    ours = result.row("layerwise, tcp: first layer")
    first = best(result.rows, whole, "first layer")
    row = next(row for row in result.rows if row.get("key") == "first_layer_vs_whole_chunk")
    assert row["samples"] == ratio_row("", first, ours)["samples"]
    assert result.summary["first_layer_vs_whole_chunk"] == row["median"]
    keyed = [row for row in result.rows if row.get("key") == "goodput_vs_whole_chunk"]
    assert [row["of"] for row in keyed] == ["layerwise, tcp: goodput", "layerwise, http: goodput"]
    assert result.summary["goodput_vs_whole_chunk"] == keyed[0]["median"]


def test_it_can_be_shown_and_drawn(result: BenchmarkResult, tmp_path: Path) -> None:
    assert "no --lmcache-python" in shown(result, BARS)
    check_drawn("peers", result, tmp_path)


def test_peers_that_bring_something_else_are_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill = HeldKV.fill

    def damaged(self: HeldKV, *arguments: Any) -> None:
        fill(self, *arguments)
        self.memory[3] ^= 1  # what others store now is not what we do

    monkeypatch.setattr(HeldKV, "fill", damaged)
    with pytest.raises(BenchmarkError, match="is not what was stored"):
        run_peers(replace(SETTINGS, servers=("gateway",), targets=("tcp",), data=tmp_path), quiet())
    assert list(tmp_path.iterdir()) == []


def test_layers_are_checked_each() -> None:
    class Header:
        depth, num_chunks = 0, 3

    class Prefix:
        headers = (Header,)

        def layers(self) -> Iterator[list[np.ndarray[Any, Any]]]:
            yield [np.full((3, 8), 10 * layer + 1, np.uint8) for layer in range(4)]

    with HeldKV(3, 4, 8) as held:
        held.fill(Prefix(), [0, 2])  # type: ignore[arg-type]
        held.check_chunks()
        held.memory[:48] = bytes([1] * 24 + [21] * 24)
        held.check_layers()
        held.memory[47] = 0
        with pytest.raises(BenchmarkError, match="layer 2 "):
            held.check_layers()
        with pytest.raises(BenchmarkError):
            held.check_chunks()


def test_a_failing_get_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Getter, "put", lambda self: None)
    with pytest.raises(BenchmarkError, match="chunks/00000"):
        run_peers(replace(SETTINGS, servers=("gateway",), targets=("tcp",), data=tmp_path), quiet())
    assert list(tmp_path.iterdir()) == []


# -- settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"context": 70},
        {"lmcache_tokens": 17},
        {"pairs": 0},
        {"pairs": MIN_PAIRS - 1, "quick": False},
        {"segment_chunks": 0},
        {"ranged_layers": 0},
        {"ranged_layers": 5},
        {"targets": ()},
        {"servers": ("gateway", "gateway")},
        {"servers": ("apache",)},
    ],
)
def test_settings_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        replace(SETTINGS, **wrong)


def test_sampled_layers_are_spread() -> None:
    assert PeersSettings().sampled_layers == [0, 16]
    assert replace(SETTINGS, ranged_layers=4).sampled_layers == [0, 1, 2, 3]
    assert PeersSettings().chunks == 1024


@pytest.mark.skipif(not HAS_NGINX, reason="nginx is not installed")
@pytest.mark.skipif("OBJECTCACHE_LMCACHE_PYTHON" not in os.environ, reason="OBJECTCACHE_LMCACHE_PYTHON names none")
def test_the_real_lmcache_loads_what_is_held(tmp_path: Path) -> None:
    """It says nothing when an object is not there but how many were."""
    python = Path(os.environ["OBJECTCACHE_LMCACHE_PYTHON"])
    run = replace(SETTINGS, servers=("nginx",), targets=("tcp",), lmcache_python=python, data=tmp_path)
    (way,) = {row["way"] for row in run_peers(run, quiet()).rows if row.get("kind") == "LMCache"}
    assert way.startswith("LMCache 0.")


# -- arithmetic ---------------------------------------------------------------------------------------


def measured(total_s: float, first_s: float, started_s: float, payload_bytes: int = 10**9) -> Measured:
    fetch = Fetch(started_s, total_s, payload_bytes, first_layer_s=first_s, last_asked_s=first_s / 2)
    return Measured(fetch, server_cpu_s=0.5, client_cpu_s=1.0)


def test_rows_are_scaled_to_all_layers() -> None:
    rows = way_rows("x", "k", [measured(2.0, 1.0, 7.0, 5 * 10**8)], zero_s=5.0, layers=2, of_layers=32, whole=False)
    found = {row["name"]: row for row in rows}
    assert found["x: total"]["samples"] == [32_000.0]
    assert found["x: first layer"]["samples"] == [1000.0]
    assert (found["x: goodput"]["samples"], found["x: goodput"]["at_s"]) == ([0.25], [2.0])
    assert found["x: server CPU"]["samples"] == [1.0]
    assert found["x: client CPU"]["samples"] == [2.0]
    assert "x: last chunk asked for" not in found


def test_the_best_of_each_kind_is_what_counts() -> None:
    taken = {
        "raw": [measured(0.5, 0.5, 0.0), measured(0.25, 0.5, 0.0)],
        "ours": [measured(1.0, 0.1, 0.0), measured(0.5, 0.1, 0.0)],
        "a": [measured(2.0, 2.0, 0.0), measured(2.0, 2.0, 0.0)],
        "b": [measured(4.0, 1.0, 0.0), measured(4.0, 1.0, 0.0)],
        "c": [measured(10.0, 1.0, 0.0), measured(10.0, 1.0, 0.0)],
    }
    rows = [
        row
        for way, samples in taken.items()
        for row in way_rows(way, "k", samples, zero_s=0.0, layers=1, of_layers=1, whole=True)
    ]
    ratios, summary = ratio_rows(rows, "ours", raw="raw", whole=["a", "b"], ranged=["c"])
    by_key = {row["key"]: row["samples"] for row in ratios if "key" in row}
    assert by_key["goodput_vs_whole_chunk"] == [2.0, 4.0]  # a's goodput is the best
    assert by_key["goodput_vs_ranged"] == [10.0, 20.0]
    assert by_key["first_layer_vs_whole_chunk"] == [10.0, 10.0]  # b's first layer is
    assert summary == {
        "goodput_vs_whole_chunk": 3.0,
        "goodput_vs_ranged": 15.0,
        "first_layer_vs_whole_chunk": 10.0,
    }
    others = {row["over"]: row["samples"] for row in ratios if "key" not in row}
    assert others["raw: goodput"] == [0.5, 0.5]
    assert others["b: goodput"] == [4.0, 8.0]


# -- the command line ---------------------------------------------------------------------------------


def test_the_command_names_what_is_missing_before_it_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    check_needs_s3(monkeypatch, "peers")


@pytest.mark.parametrize(
    ("summary", "code"),
    [
        ({bar.key: bar.limit for bar in BARS}, 0),
        ({bar.key: bar.limit - 0.1 for bar in BARS}, 1),
        ({bar.key: bar.limit for bar in BARS[:-1]}, 1),  # not measured is not met
    ],
)
def test_check_decides_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, result: BenchmarkResult, summary: dict[str, Any], code: int
) -> None:
    seen: list[PeersSettings] = []

    def run(settings: PeersSettings, console: Console) -> BenchmarkResult:
        seen.append(settings)
        return replace(result, summary=summary)

    monkeypatch.setattr(peers, "run_peers", run)
    out = tmp_path / "out.json"
    arguments = ["peers", "--servers", "nginx,gateway", "--target", "tcp", "--target", "http", "--layers", "1"]
    ended = CliRunner().invoke(app, [*arguments, "--quick", "--check", "--json", str(out)])
    assert ended.exit_code == code
    assert (seen[0].servers, seen[0].targets) == (("nginx", "gateway"), ("tcp", "http"))
    assert (seen[0].shape.num_layers, seen[0].ranged_layers, seen[0].context) == (1, 1, 512)
    assert json.loads(out.read_text())["summary"] == summary
