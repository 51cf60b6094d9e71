"""`bench peers` on a shape so small that it takes seconds: with the gateway as a server, and nginx where it is."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import urllib.request
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
from objectcache.bench.bars import judge
from objectcache.bench.errors import BenchmarkError
from objectcache.bench.machine import child_pids
from objectcache.bench.peers import BARS, PeersSettings, run_peers
from objectcache.bench.peers.getter import Getter
from objectcache.bench.peers.held import HeldKV
from objectcache.bench.peers.lmcache import LMCacheReader
from objectcache.bench.peers.measured import Measured
from objectcache.bench.peers.rows import best, ratio_rows, way_rows
from objectcache.bench.peers.servers import Nginx, Server, started_nginx
from objectcache.bench.report import show, show_verdicts
from objectcache.bench.result import MIN_PAIRS, BenchmarkResult, ratio_row
from objectcache.bench.shapes import ModelShape
from objectcache.bench.stores.fetch import Fetch
from objectcache.cli.bench import app, options
from objectcache.errors import ConfigError

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


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def test_the_json_has_rows_with_samples_and_a_summary(result: BenchmarkResult, tmp_path: Path) -> None:
    result.write(tmp_path / "result.json")
    text = (tmp_path / "result.json").read_text()
    data = json.loads(text)
    assert (data["benchmark"], data["quick"], data["options"]["servers"]) == ("peers", True, list(SERVERS))
    assert "127.0.0.1" not in text
    assert str(tmp_path.parent) not in text
    names = [row["name"] for row in data["rows"]]
    assert len(set(names)) == len(names)
    assert all(row["min"] <= row["median"] <= row["max"] for row in data["rows"] if "not_run" not in row)
    assert (
        data["summary"].keys()
        == {*("goodput_vs_whole_chunk", "goodput_vs_ranged", "first_layer_vs_whole_chunk")}
        == {bar.key for bar in BARS}
    )


def test_who_was_not_there_is_told(result: BenchmarkResult) -> None:
    assert result.row("LMCache")["not_run"] == "no --lmcache-python"


def test_all_ways_were_measured_in_turn(result: BenchmarkResult) -> None:
    at_s = [result.row(f"{way}: goodput")["at_s"] for way in WAYS]
    in_turn = [times[pair] for pair in range(2) for times in at_s]
    assert in_turn == sorted(in_turn)
    assert in_turn[0] == 0.0


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
    console = quiet()
    show(console, result)
    show_verdicts(console, judge(BARS, result.summary))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert all(row["name"] in text for row in result.rows)
    assert "no --lmcache-python" in text
    plot = pytest.importorskip("objectcache.bench.peers.plot", reason="matplotlib is not installed")
    plot.draw(result, tmp_path / "result.png")
    assert (tmp_path / "result.png").read_bytes().startswith(b"\x89PNG")


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


# -- nginx --------------------------------------------------------------------------------------------


@pytest.mark.skipif(not HAS_NGINX, reason="nginx is not installed")
def test_nginx_serves_while_it_is_wanted(tmp_path: Path) -> None:
    before = child_pids(os.getpid())
    with started_nginx(tmp_path) as nginx:
        (nginx.root / "name@1").write_bytes(b"content")
        with urllib.request.urlopen(f"http://{nginx.host}/name%401") as answer:
            assert answer.read() == b"content"
        assert len(nginx.server.pids) > 1
        assert nginx.server.cpu_s() >= 0
    assert child_pids(os.getpid()) == before
    assert not Path(f"/proc/{nginx.server.pids[0]}/exe").exists()


def test_what_is_not_installed_can_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *arguments, **more: None)
    with pytest.raises(ConfigError, match=r"nginx-light.*--servers"), started_nginx(tmp_path):
        pass


# -- LMCache ------------------------------------------------------------------------------------------

# Answers as lmcache_child.py does; loads what lies below the root, but with {flaw} added to the first byte.
FAKE_CHILD = """
import json, mmap, sys
job = json.loads(sys.stdin.readline())
size, step = job["size_bytes"], job["object_bytes"]
spans = [(at, min(size, at + step)) for at in range(0, size, step)]
memory = mmap.mmap(job["fd"], size)
print(json.dumps({{"version": "0", "objects": [[f"o{{a}}", a, b] for a, b in spans]}}), flush=True)
for line in sys.stdin:
    for a, b in spans:
        memory[a:b] = open(f"{root}/o{{a}}", "rb").read()
    memory[0] = (memory[0] + {flaw}) % 256
    answer = {{"started_s": 1.0, "total_s": 2.0, "payload_bytes": size, "cpu_s": 0.5}}
    print(json.dumps(answer), flush=True)
"""


@pytest.mark.parametrize("flaw", [0, 1])
def test_lmcache_loads_what_its_server_has(tmp_path: Path, flaw: int) -> None:
    root, child, python = tmp_path / "root", tmp_path / "child.py", tmp_path / "python"
    root.mkdir()
    child.write_text(FAKE_CHILD.format(root=root, flaw=flaw))
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{child}"\n')
    python.chmod(0o700)
    nginx = Nginx(Server("nginx", "", {}, (os.getpid(),)), "127.0.0.1:1", root)
    rng = np.random.default_rng(1)

    class Header:
        depth, num_chunks = 0, 5

    class Prefix:
        headers = (Header,)

        def layers(self) -> Iterator[list[np.ndarray[Any, Any]]]:
            yield [rng.integers(256, size=(5, 8), dtype=np.uint8) for _ in range(2)]

    with HeldKV(5, 2, 8) as held:
        held.fill(Prefix(), [0])  # type: ignore[arg-type]
        with LMCacheReader(python, nginx, held, chunks_each=2) as reader:
            assert sorted(path.stat().st_size for path in root.iterdir()) == [16, 32, 32]
            held.clear()
            measured = reader.load()
        if flaw:
            with pytest.raises(BenchmarkError):
                held.check_chunks()
        else:
            held.check_chunks()
    assert (measured.fetch.payload_bytes, measured.fetch.first_layer_s, measured.client_cpu_s) == (80, 2.0, 0.5)


@pytest.mark.skipif(not HAS_NGINX, reason="nginx is not installed")
@pytest.mark.skipif("OBJECTCACHE_LMCACHE_PYTHON" not in os.environ, reason="OBJECTCACHE_LMCACHE_PYTHON names none")
def test_the_real_lmcache_loads_what_is_held(tmp_path: Path) -> None:
    """It says nothing when an object is not there but how many were."""
    python = Path(os.environ["OBJECTCACHE_LMCACHE_PYTHON"])
    run = replace(SETTINGS, servers=("nginx",), targets=("tcp",), lmcache_python=python, data=tmp_path)
    (way,) = {row["way"] for row in run_peers(run, quiet()).rows if row.get("kind") == "LMCache"}
    assert way.startswith("LMCache 0.")


def test_an_interpreter_without_lmcache_is_named(tmp_path: Path) -> None:
    nginx = Nginx(Server("nginx", "", {}, ()), "127.0.0.1:1", tmp_path)
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    bare.chmod(0o700)
    with HeldKV(1, 1, 8) as held:
        with pytest.raises(BenchmarkError, match="cannot be run"), LMCacheReader(tmp_path / "none", nginx, held, 1):
            pass
        with pytest.raises(BenchmarkError, match="No module named"), LMCacheReader(bare, nginx, held, 1):
            pass


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
    monkeypatch.setattr(options, "find_spec", lambda name: None)
    ended = CliRunner().invoke(app, ["peers"])
    assert isinstance(ended.exception, ConfigError)
    assert "objectcache[s3]" in str(ended.exception)


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
