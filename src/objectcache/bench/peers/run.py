"""`bench peers`, from an empty directory to a result."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console

from objectcache.bench.machine import describe_machine
from objectcache.bench.peers.rows import ratio_rows, way_rows
from objectcache.bench.peers.settings import PeersSettings
from objectcache.bench.peers.subject import LMCACHE, OURS, RANGED, RAW, WHOLE, Way, open_ways, planned
from objectcache.bench.progress import BenchmarkProgress
from objectcache.bench.result import BenchmarkResult, Row, interleaved

PACKAGES = ("objectcache", "aiohttp", "lmdb", "msgpack", "numpy", "obstore", "xxhash")


def run_peers(settings: PeersSettings, console: Console) -> BenchmarkResult:
    """Measure everything. Raises ObjectCacheError; nothing of it stays on the disk or runs on."""
    with ExitStack() as stack:
        directory = stack.enter_context(_directory(settings.data))
        result = BenchmarkResult("peers", settings.to_dict(), describe_machine(directory, PACKAGES), settings.quick)
        progress = stack.enter_context(BenchmarkProgress(console, planned(settings) * (1 + settings.pairs)))
        ways = stack.enter_context(open_ways(settings, directory, progress.begin))
        for way in ways:
            progress.begin(f"checked: {way.name}")
            way.check()
            progress.step()
        progress.begin("in turn")
        measured = interleaved({way.name: way.measure for way in ways}, settings.pairs, lambda name: progress.step())
        zero_s = min(m.fetch.started_s for taken in measured.values() for m in taken)
        for way in ways:
            layers = settings.ranged_layers if way.kind == RANGED else settings.shape.num_layers
            result.rows += way_rows(
                way.name,
                way.kind,
                measured[way.name],
                zero_s=zero_s,
                layers=layers,
                of_layers=settings.shape.num_layers,
                whole=way.kind == WHOLE,
            )
        _compare(result, ways)
        if not any(way.kind == LMCACHE for way in ways):
            result.rows.append(_no_lmcache(settings))
        return result


def _compare(result: BenchmarkResult, ways: list[Way]) -> None:
    """Every target of ours with all peers; the summary is of the first."""
    whole = [way.name for way in ways if way.kind in (WHOLE, LMCACHE)]
    ranged = [way.name for way in ways if way.kind == RANGED]
    measured = list(result.rows)
    for ours in [way.name for way in ways if way.kind == OURS]:
        ratios, summary = ratio_rows(measured, ours, raw=RAW, whole=whole, ranged=ranged)
        result.rows += ratios
        if not result.summary:
            result.summary.update(summary)


def _no_lmcache(settings: PeersSettings) -> Row:
    reason = "no --lmcache-python" if settings.lmcache_python is None else "it needs nginx"
    return {"name": LMCACHE, "unit": "", "not_run": reason}


@contextmanager
def _directory(parent: Path | None) -> Iterator[Path]:
    """A temporary directory, gone afterwards."""
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="objectcache-bench-", dir=parent) as made:
        yield Path(made)
