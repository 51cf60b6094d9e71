"""`bench catalog` and `bench match` on a catalog so small that it takes seconds: what they write, what they check."""

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

from objectcache.bench import catalog as bench_catalog
from objectcache.bench import match as bench_match
from objectcache.bench.bars import judge
from objectcache.bench.catalog import CatalogSettings, CatalogSize, CatalogWorkload, run_catalog
from objectcache.bench.catalog.bare import BareIndex, entries_of
from objectcache.bench.catalog.site import CatalogSite
from objectcache.bench.errors import BenchmarkError
from objectcache.bench.machine import allocated_bytes, child_pids, drop_page_cache
from objectcache.bench.match import MatchSettings, run_match
from objectcache.bench.match.rows import AT_10M, ratio_of, time_row
from objectcache.bench.report import show
from objectcache.bench.result import MIN_PAIRS, BenchmarkResult
from objectcache.bench.retrieve.workload import PART
from objectcache.catalog import Catalog, match
from objectcache.cli.bench import app
from objectcache.cli.bench import catalog as catalog_command
from objectcache.cli.bench import match as match_command
from objectcache.errors import ConfigError

SIZE = CatalogSize(chunks=200, chain_chunks=32, segment_sizes=(8, 3))
CATALOG = CatalogSettings(size=SIZE, pairs=2, quick=True)
MATCH = MatchSettings(size=SIZE, lengths=(8, 32), chains=2, pairs=2, quick=True)
CHUNKS = 224  # seven whole chains
SEGMENTS = 4 + 11 + 4 + 11 + 4 + 11 + 4


def quiet() -> Console:
    return Console(file=io.StringIO(), width=160)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BenchmarkResult]:
    """One run of `bench catalog`; afterwards nothing of it is left."""
    data = tmp_path_factory.mktemp("data")
    before = child_pids(os.getpid())
    yield run_catalog(replace(CATALOG, data=data), quiet())
    assert child_pids(os.getpid()) == before
    assert list(data.iterdir()) == []


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def matched(kept: Path) -> BenchmarkResult:
    """One run of `bench match`, which leaves its catalog in `kept`."""
    return run_match(replace(MATCH, data=kept), quiet())


def check_rows(result: BenchmarkResult, tmp_path: Path) -> None:
    result.write(tmp_path / "result.json")
    data = json.loads((tmp_path / "result.json").read_text())
    assert str(tmp_path.parent) not in json.dumps(data)
    names = [row["name"] for row in data["rows"]]
    assert len(set(names)) == len(names)
    for row in data["rows"]:
        assert row["min"] <= row["median"] <= row["max"]
    console = quiet()
    show(console, result)
    assert isinstance(console.file, io.StringIO)
    assert "quick run" in console.file.getvalue()


def test_the_catalog_is_measured_whole(filled: BenchmarkResult, tmp_path: Path) -> None:
    check_rows(filled, tmp_path)
    assert set(filled.summary) == {"bytes_per_chunk", "open_s", "rebuild_s", "rebuild_snapshot_s"}
    for name in ("rebuild from the log", "rebuild from a snapshot"):
        row = filled.row(name)
        assert (row["chunks"], row["segments"]) == (CHUNKS, SEGMENTS)
    assert filled.row("log: bytes a chunk on disk")["median"] > 32  # a key each, at least
    assert filled.row("read of all the log's files")["files"] == SEGMENTS
    assert len(filled.row("insert into the full catalog / bare LMDB")["samples"]) == CATALOG.pairs
    assert filled.row("commit of a segment of 8 chunks")["p50"] > 0
    assert filled.row("bytes a chunk on disk, after inserts")["chunks"] > CHUNKS
    assert filled.summary["bytes_per_chunk"] >= filled.row("bytes a chunk on disk")["median"]


def test_matches_are_measured_in_all_ways(matched: BenchmarkResult, tmp_path: Path) -> None:
    check_rows(matched, tmp_path)
    assert set(matched.summary) == {"match_ms", "match_http_ms", "match_cold_ms"}
    names = {row["name"] for row in matched.rows}
    for size in (8, 3):
        assert {f"match of {length} chunks in segments of {size}" for length in MATCH.lengths} <= names
        assert f"bare LMDB, two look-ups a segment of {size}" in names
        assert f"match of a whole chain in segments of {size}, cold page cache" in names
    for way in ("is stored in part", "branches off within a segment", "is not stored"):
        assert f"match of a chain that {way}" in names
    assert {"match of 32 chunks over HTTP, signed", "SHA-256 of the chain's tokens", "gateway ready"} <= names
    row = matched.row("match of 32 chunks in segments of 8")
    assert len(row["samples"]) == MATCH.chains * MATCH.pairs
    assert row["p50"] <= row["p99"] <= row["max"]


def test_a_catalog_that_was_kept_is_used_again(matched: BenchmarkResult, kept: Path) -> None:
    site = CatalogSite(kept, SIZE.workload)
    assert site.is_built()
    with pytest.raises(BenchmarkError, match="another one"):
        CatalogSite(kept, replace(SIZE, chunks=400).workload).is_built()
    with Catalog.open(site.catalog) as catalog:
        assert catalog.stats().chunks == CHUNKS
        for number in range(site.workload.num_chains):
            chain = site.workload.chain(number)
            assert match(catalog, site.workload.namespace, chain, [PART]).tokens == 32 * 16


def test_what_is_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"")
    with pytest.raises(BenchmarkError, match="something else"):
        run_match(replace(MATCH, data=tmp_path), quiet())
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_both_can_be_drawn(filled: BenchmarkResult, matched: BenchmarkResult, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from objectcache.bench.catalog import plot as catalog_plot
    from objectcache.bench.match import plot as match_plot

    for draw, result in ((catalog_plot.draw, filled), (match_plot.draw, matched)):
        draw(result, tmp_path / "plots" / "result.png")
        assert (tmp_path / "plots" / "result.png").read_bytes().startswith(b"\x89PNG")


# -- the workload -------------------------------------------------------------------------------------


def test_chains_and_records_follow_from_the_number_alone() -> None:
    workload = SIZE.workload
    assert (workload.num_chunks, workload.num_segments) == (CHUNKS, SEGMENTS)
    records = list(workload.records())
    assert [record.sequence for record in records] == list(range(1, SEGMENTS + 1))
    assert records[15:19] == list(workload.records(2, 3))
    headers = [record.commits[0].header for record in workload.records(3, 4)]
    assert [header.num_chunks for header in headers] == [3] * 10 + [2]
    assert b"".join(header.keys.data for header in headers) == workload.chain(3).data
    assert [header.parent for header in headers[1:]] == [header.leaf for header in headers[:-1]]
    assert workload.chain(3) != workload.chain(4)
    assert workload.chains_in(8, 2) == [0, 4]
    assert [CatalogWorkload(9, 32, (8, 4)).sequence(number) for number in range(4)] == [1, 5, 13, 17]


def test_a_bare_index_holds_what_the_catalogs_does(tmp_path: Path) -> None:
    records = list(SIZE.workload.records(0, 2))
    entries = sorted(entries_of([record.commits[0].header for record in records], 1))
    with BareIndex(tmp_path / "bare") as bare:
        bare.append(entries[:40])
        bare.insert(entries[40:])
        with bare._environment.begin() as transaction:
            assert [entry for _, entry in transaction.cursor(bare._db)] == entries


def test_the_page_cache_can_be_dropped_and_files_be_measured(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(10_000))
    drop_page_cache(tmp_path)
    assert (tmp_path / "file").read_bytes() == bytes(10_000)
    assert allocated_bytes(tmp_path) == allocated_bytes(tmp_path / "file") >= 10_000


# -- arithmetic, bars, the command line ---------------------------------------------------------------


def test_times_of_passes() -> None:
    measured = {"a": [[0.002, 0.004], [0.006]], "b": [[0.001], [0.002, 0.002]]}
    row = time_row("a", measured["a"])
    assert (row["samples"], row["median"]) == ([2.0, 4.0, 6.0], 4.0)
    assert ratio_of(measured, "a", "b")["samples"] == pytest.approx([3.0, 3.0])


def test_bars_are_for_catalogs_of_their_size() -> None:
    assert [bar.key for bar in bench_catalog.bars(10_000_000)] == ["bytes_per_chunk", "open_s"]
    assert [bar.key for bar in bench_catalog.bars(200_000)] == ["open_s"]
    assert [bar.key for bar in bench_match.bars(10_000_000)] == [AT_10M]
    assert bench_match.bars(9_999_999) == ()
    assert [verdict.met for verdict in judge(bench_match.bars(10_000_000), {AT_10M: 1.1})] == [False]


def test_settings_that_cannot_be() -> None:
    for wrong in ({"chunks": 0}, {"segment_sizes": ()}, {"segment_sizes": (0,)}, {"chunks": 63}):
        with pytest.raises(ConfigError):
            replace(SIZE, **wrong)
    for settings in (CATALOG, MATCH):
        with pytest.raises(ConfigError, match=f"at least {MIN_PAIRS} pairs"):
            replace(settings, quick=False)
    with pytest.raises(ConfigError):
        replace(CATALOG, rounds=0)
    with pytest.raises(ConfigError):
        replace(MATCH, lengths=(33,))
    with pytest.raises(ConfigError):
        replace(MATCH, chains=0)


def test_the_catalogs_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, filled: BenchmarkResult) -> None:
    seen: list[CatalogSettings] = []

    def run(settings: CatalogSettings, console: Console) -> BenchmarkResult:
        seen.append(settings)
        return replace(filled, summary={"bytes_per_chunk": 121.0, "open_s": 0.5})

    monkeypatch.setattr(catalog_command, "run_catalog", run)
    assert CliRunner().invoke(app, ["catalog", "--quick", "--check"]).exit_code == 0
    ended = CliRunner().invoke(app, ["catalog", "--check", "--rounds", "2", "--json", str(tmp_path / "out.json")])
    assert (ended.exit_code, "missed" in ended.output) == (1, True)
    assert [settings.size.chunks for settings in seen] == [200_000, 10_000_000]
    assert (seen[0].pairs, seen[0].quick, seen[1].rounds) == (3, True, 2)
    assert json.loads((tmp_path / "out.json").read_text())["summary"]["open_s"] == 0.5


def test_the_matchs_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, matched: BenchmarkResult) -> None:
    seen: list[MatchSettings] = []

    def run(settings: MatchSettings, console: Console) -> BenchmarkResult:
        seen.append(settings)
        return matched

    monkeypatch.setattr(match_command, "run_match", run)
    assert CliRunner().invoke(app, ["match", "--quick", "--check"]).exit_code == 0
    ended = CliRunner().invoke(app, ["match", "--check", "--data", str(tmp_path)])
    assert ended.exit_code == 1  # what is not measured is not met
    assert (seen[0].size.chunks, seen[1].size.chunks, seen[1].data) == (200_000, 10_000_000, tmp_path)
