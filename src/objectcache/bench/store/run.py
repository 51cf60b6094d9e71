"""`bench store`, from an empty directory to a result."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console

from objectcache.bench.children import JsonChild
from objectcache.bench.machine import describe_machine
from objectcache.bench.progress import BenchmarkProgress
from objectcache.bench.result import BenchmarkResult, interleaved
from objectcache.bench.store.compute import Compute, split_cores
from objectcache.bench.store.prefill import Beside, Prefilled, SyntheticPrefill
from objectcache.bench.store.raw import RawStoring
from objectcache.bench.store.rows import RATES, RAW, alone, beside_bare, prefill_rows, raw_row, storing, summary_of
from objectcache.bench.store.settings import StoreSettings
from objectcache.bench.store.subject import subject
from objectcache.storing import ALL, StoreOptions, StoreQueue

PACKAGES = ("objectcache", "aiohttp", "lmdb", "msgpack", "numpy", "xxhash")


def run_store(settings: StoreSettings, console: Console) -> BenchmarkResult:
    """Measure everything. Raises ObjectCacheError; nothing of it stays on the disk or runs on."""
    with ExitStack() as stack:
        directory = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="objectcache-bench-", dir=_made(settings.data)))
        )
        result = BenchmarkResult("store", settings.to_dict(), describe_machine(directory, PACKAGES), settings.quick)
        progress = stack.enter_context(BenchmarkProgress(console, _steps(settings)))
        progress.begin("preparing")
        core = split_cores()[0]
        stack.enter_context(_kept_off(core))
        raw = stack.enter_context(RawStoring(directory, settings.payload_bytes, settings.layer_bytes, core))
        cache, clear = stack.enter_context(subject(settings.through, directory))
        queue = stack.enter_context(
            StoreQueue(
                cache,
                StoreOptions(
                    ALL,
                    staging_bytes=settings.staging_bytes,
                    writer=settings.writer,
                    segment_chunks=settings.segment_chunks,
                ),
            )
        )
        bare = stack.enter_context(JsonChild(["objectcache.bench.store.bare_mover"]))
        bare.ask({"path": str(directory / "bare"), "layer_bytes": settings.layer_bytes})
        prefill = SyntheticPrefill(settings, Compute(settings.python_share), queue, clear, directory, core, bare)
        _warm_up(settings, raw, prefill, progress)
        _measure(result, settings, raw, prefill, progress)
        return result


def _warm_up(settings: StoreSettings, raw: RawStoring, prefill: SyntheticPrefill, progress: BenchmarkProgress) -> None:
    progress.begin("getting warm")
    for _ in range(settings.warm_rounds):
        quanta = prefill.compute.quanta(settings.layer_bytes / raw.run())
        prefill.run(quanta, Beside.STORING)
        progress.step()


def _measure(
    result: BenchmarkResult,
    settings: StoreSettings,
    raw: RawStoring,
    prefill: SyntheticPrefill,
    progress: BenchmarkProgress,
) -> None:
    """Every pair at the rate that the raw loop had just before: the machine's own rate drifts, and has modes."""
    progress.begin("prefills, alone and storing")
    zero_s = time.perf_counter()
    raw_at_s: list[float] = []
    raw_rates: list[float] = []

    def run_raw() -> None:
        raw_at_s.append(time.perf_counter() - zero_s)
        raw_rates.append(raw.run())

    def prefills(factor: float, beside: Beside) -> Callable[[], Prefilled]:
        def run() -> Prefilled:
            layer_s = settings.layer_bytes / (raw_rates[-1] * settings.rate * factor)
            return prefill.run(prefill.compute.quanta(layer_s), beside)

        return run

    ways: dict[str, Callable[[], Prefilled | None]] = {RAW: run_raw}
    for suffix, factor in RATES.items():
        ways[alone(suffix)] = prefills(factor, Beside.NOTHING)
        ways[beside_bare(suffix)] = prefills(factor, Beside.BARE)
        ways[storing(suffix)] = prefills(factor, Beside.STORING)
    measured = interleaved(ways, settings.pairs, lambda way: progress.step())
    runs = {way: [run for run in found if run is not None] for way, found in measured.items()}
    result.rows.append(raw_row(raw_rates, raw_at_s, settings.payload_bytes))
    for suffix in RATES:
        rows = prefill_rows(runs, suffix, zero_s)
        result.rows += rows
        result.summary |= summary_of(rows, suffix)
    produced = result.row(f"{alone('')}: KV produced")["samples"]
    over_raw = [rate * 1e9 / raw_rate for rate, raw_rate in zip(produced, raw_rates, strict=True)]
    result.summary["rate_over_raw"] = statistics.median(over_raw)


def _made(directory: Path | None) -> Path | None:
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
    return directory


@contextmanager
def _kept_off(cores: set[int]) -> Iterator[None]:
    """This thread, and all threads and processes that it starts meanwhile, leave these cores to what computes."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before - cores or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _steps(settings: StoreSettings) -> int:
    return settings.warm_rounds + settings.pairs * (1 + 3 * len(RATES))
