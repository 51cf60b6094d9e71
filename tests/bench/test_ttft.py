"""`bench ttft` on a CPU: whether it works, not how fast anything is."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from objectcache.bench.errors import BenchmarkError
from objectcache.bench.gateway import BenchGateway
from objectcache.bench.result import BenchmarkResult
from objectcache.bench.ttft import TINY, Cell, TtftSettings, core_cells, merge_results, rest_cells, run_ttft
from objectcache.bench.ttft.floor import floor_ms
from objectcache.bench.ttft.mixed import ADMISSIONS, fits
from objectcache.bench.ttft.paths import CHUNKWISE_PATH, LAYERWISE, LOCAL, LOCAL_FIRST, RESIDENT, SPLIT, Run
from objectcache.bench.ttft.paths import Path as Path_
from objectcache.bench.ttft.rows import interval, summary_of
from objectcache.bench.ttft.world import World
from objectcache.cache.in_place import InPlace, Slices
from objectcache.errors import ConfigError

CELLS = (Cell(128, 0.5, gbps=1.0), Cell(128, 0.5, gbps=0.0, target="shm", step_tokens=32))


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> BenchmarkResult:
    settings = TtftSettings(
        architecture=TINY,
        cells=CELLS,
        runs=1,
        device="cpu",
        streams=2,
        paths=(LAYERWISE, CHUNKWISE_PATH, LOCAL_FIRST, SPLIT),
        decodes=2,
        decode_context=32,
        memory=tmp_path_factory.mktemp("memory"),
        quick=True,
    )
    return run_ttft(settings, Console(file=io.StringIO()))


def test_what_was_loaded_computes_what_the_prefix_in_place_does(result: BenchmarkResult) -> None:
    assert result.summary["logits_equal"] == 1.0
    judged = {row["path"] for row in result.rows if "path" in row and row.get("logits_equal")}
    assert judged == {RESIDENT, LOCAL, LAYERWISE, CHUNKWISE_PATH, LOCAL_FIRST}


def test_first_layers_that_are_local_are_read_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put: list[tuple[int, int]] = []
    before = InPlace.put

    def spied(self: InPlace, part: int, layer: int, first: int, slices: Slices) -> None:
        put.append((layer, len(slices)))
        before(self, part, layer, first, slices)

    monkeypatch.setattr(InPlace, "put", spied)
    settings = TtftSettings(
        architecture=TINY,
        cells=CELLS[:1],
        runs=2,
        device="cpu",
        streams=2,
        paths=(LOCAL_FIRST,),
        first_layers=2,
        memory=tmp_path,
        quick=True,
    )
    result = run_ttft(settings, Console(file=io.StringIO()))
    assert put[:2] == [(0, 4), (1, 4)]
    assert [each for each in put if each[0] < 2] == put[:2] * 3, "when it runs for warmth, and in both runs"
    assert [row["logits_equal"] for row in result.rows if row.get("path") == LOCAL_FIRST] == [True]


def test_a_longer_prefix_than_that_of_the_first_cell_is_stored_as_it_was_computed(tmp_path: Path) -> None:
    cells = tuple(Cell(1024, hit, gbps=0.0) for hit in (0.5, 0.875))
    settings = TtftSettings(
        architecture=TINY, cells=cells, runs=1, device="cpu", streams=2, paths=(LAYERWISE,), memory=tmp_path, quick=True
    )
    result = run_ttft(settings, Console(file=io.StringIO()))
    assert [row["logits_equal"] for row in result.rows if row.get("path") == LAYERWISE] == [True, True]


def test_what_is_interrupted_keeps_the_cells_that_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = tuple(Cell(128, hit, gbps=0.0) for hit in (0.5, 0.75))
    settings = TtftSettings(
        architecture=TINY, cells=cells, runs=1, device="cpu", streams=2, paths=(LAYERWISE,), memory=tmp_path, quick=True
    )
    run = Path_.run

    def interrupted(path: Path_) -> Run:
        if path.cell == cells[1]:
            raise KeyboardInterrupt
        return run(path)

    monkeypatch.setattr(Path_, "run", interrupted)
    result = run_ttft(settings, Console(file=io.StringIO()))
    assert [cell["hit"] for cell in result.options["cells"]] == [0.5]
    assert {row["hit"] for row in result.rows} == {0.5}
    with pytest.raises(KeyboardInterrupt):
        run_ttft(replace(settings, cells=cells[1:]), Console(file=io.StringIO()))


def test_rows_say_what_they_are_of_and_have_a_timeline(result: BenchmarkResult) -> None:
    rows = [row for row in result.rows if row.get("path") == LAYERWISE]
    assert [(row["cap_gbps"], row["target"], row["step_tokens"]) for row in rows] == [(1.0, "tcp", 0), (0.0, "shm", 32)]
    for row in rows:
        timeline = row["timeline"]
        assert 0 < timeline["matched_ms"] <= timeline["answered_ms"]
        layers = [timeline[name] for name in ("landed_ms", "waited_until_ms", "computed_ms")]  # no device, no copies
        assert [len(each) for each in layers] == [TINY.num_layers] * 3
        for landed, waited, computed in zip(*layers, strict=True):
            assert landed <= waited <= computed <= row["samples"][0]
        assert row["added_ms"] == pytest.approx(row["samples"][0] - _local(result, row)["samples"][0], abs=0.01)
        assert row["floor_ms"] >= _local(result, row)["samples"][0] - 0.001  # which are rounded
        assert sum(row["added_parts_ms"].values()) == pytest.approx(row["added_ms"], abs=0.01)  # of one run
        assert row["added_parts_ms"]["answer"] == pytest.approx(timeline["answered_ms"], abs=0.01)


def test_decoding_beside_a_load_is_measured_for_both_kinds_of_admission(result: BenchmarkResult) -> None:
    rows = [row for row in result.rows if "admission" in row]
    assert [row["admission"] for row in rows] == list(ADMISSIONS)  # of the cell whose prefill is one step
    for row in rows:
        assert row["logits_equal"]
        assert 0 < row["gap_p50_ms"] <= row["gap_p99_ms"] <= row["gap_max_ms"]
        assert row["gap_max_ms"] < row["samples"][0] + row["alone_p99_ms"]
        assert row["gaps"] >= 1
        assert 0 < row["alone_p50_ms"] <= row["alone_p99_ms"]


def test_a_gateway_may_have_cores_of_its_own(tmp_path: Path) -> None:
    core = max(os.sched_getaffinity(0))
    with BenchGateway(tmp_path, cores={core}) as gateway:
        for pid in (gateway.control_pid, *gateway.worker_pids):
            assert os.sched_getaffinity(pid) == {core}
    everything = len(os.sched_getaffinity(0))
    with pytest.raises(ConfigError, match="cores"):
        World(TtftSettings(architecture=TINY, cells=CELLS, device="cpu", gateway_cores=everything))


def test_a_load_fits_when_no_layer_would_be_waited_for() -> None:
    windows_s = (1.0, 1.0, 1.0, 1.0)
    assert not fits(10.0, 0.0, [], windows_s)
    # Layers of 3 s: the others land at 6, 9 and 12 s, and would be asked for 1, 2 and 3 s after the step begins.
    assert not fits(8.9, 0.0, [3.0], windows_s)
    assert fits(9.1, 0.0, [3.0, 6.0, 9.0], windows_s)
    assert fits(0.0, 0.0, [0.5], windows_s)
    # What is late already does not come at once.
    assert fits(100.0, 0.0, [3.0], windows_s) is False
    assert fits(100.0, 0.0, [3.0, 6.0, 9.0, 12.0], windows_s)


def _local(result: BenchmarkResult, row: dict[str, object]) -> dict[str, list[float]]:
    return result.row(str(row["name"]).rpartition(":")[0] + f": {LOCAL}")


def test_parts_of_one_machine_are_put_together(result: BenchmarkResult, tmp_path: Path) -> None:
    part = tmp_path / "part.json"
    result.write(part)
    merged = merge_results([BenchmarkResult.read(part), result])
    assert len(merged.rows) == 2 * len(result.rows)
    other = replace(result, machine={**result.machine, "device": "another"})
    with pytest.raises(BenchmarkError):
        merge_results([result, other])
    part.write_text("{}")
    with pytest.raises(ConfigError):
        BenchmarkResult.read(part)


def test_bars_are_of_the_core_grid() -> None:
    row = {
        "path": "layerwise",
        "context": 65536,
        "cap_gbps": 100.0,
        "target": "tcp",
        "store": "memory",
        "step_tokens": 0,
    }
    rows = [
        {**row, "name": f"{hit}", "hit": hit, "added_pct": percent} for hit, percent in ((0.875, 1.5), (0.96875, 150))
    ]
    assert summary_of(rows)["added_pct_64k_max"] == 1.5


def test_the_floor_is_what_the_latest_layer_adds() -> None:
    # Layers of 10 ms each; needed at 0, 20 and 30 ms: the first is 10 ms late, the second is there, as is the third.
    assert floor_ms(40.0, (0.0, 20.0, 30.0), 1_000_000, 1e8) == pytest.approx(50.0)
    # All needed at once: the last one comes at 30 ms.
    assert floor_ms(40.0, (0.0, 1.0, 2.0), 1_000_000, 1e8) == pytest.approx(68.0)
    assert floor_ms(40.0, (0.0, 1.0, 2.0), 1_000_000, 0.0) == 40.0
    assert floor_ms(40.0, (50.0,), 1_000_000, 1e8) == 40.0


def test_an_interval_holds_the_median_and_narrows_with_runs() -> None:
    few, many = interval([1.0, 2.0, 9.0]), interval([1.0, 2.0, 9.0] * 30)
    assert few[0] <= 2.0 <= few[1]
    assert many[1] - many[0] < few[1] - few[0]


def test_cells() -> None:
    assert [(cell.context, cell.hit) for cell in core_cells()] == [
        (context, hit) for context in (4096, 16384, 65536) for hit in (0.5, 0.875)
    ]
    assert len(rest_cells()) == len(set(rest_cells())) == 19
    assert Cell(100, 0.5).prefix_tokens(16) == 48
    assert Cell(128, 0.5, step_tokens=24).steps(16) == [(64, 88), (88, 112), (112, 128)]
    for wrong in ((), (Cell(16, 0.5),)):
        with pytest.raises(ConfigError):
            TtftSettings(cells=wrong)
