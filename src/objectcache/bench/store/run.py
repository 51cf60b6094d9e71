"""`bench store`, from an empty directory to a result."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console

from objectcache.bench.machine import describe_machine
from objectcache.bench.progress import BenchmarkProgress
from objectcache.bench.result import BenchmarkResult, interleaved
from objectcache.bench.store.compute import Compute, split_cores
from objectcache.bench.store.prefill import Prefilled, SyntheticPrefill
from objectcache.bench.store.raw import RawStoring
from objectcache.bench.store.rows import RATES, RAW, alone, prefill_rows, raw_row, storing, summary_of
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
        prefill = SyntheticPrefill(settings, Compute(settings.python_share), queue, clear, directory, core)
        sustained_bytes_s = _calibrate(settings, raw, prefill, progress)
        _measure(result, settings, raw, prefill, sustained_bytes_s * settings.rate, progress)
        return result


def _calibrate(
    settings: StoreSettings, raw: RawStoring, prefill: SyntheticPrefill, progress: BenchmarkProgress
) -> float:
    """Bytes a second that the raw loop sustains: the median of a few runs. Everything else gets warm meanwhile."""
    progress.begin("what the raw loop sustains")
    rates = []
    for _ in range(settings.raw_rounds):
        rates.append(raw.run())
        quanta = prefill.compute.quanta(settings.layer_bytes / rates[-1])
        prefill.run(quanta, store=True)
        progress.step()
    return statistics.median(rates)


def _measure(
    result: BenchmarkResult,
    settings: StoreSettings,
    raw: RawStoring,
    prefill: SyntheticPrefill,
    rate_bytes_s: float,
    progress: BenchmarkProgress,
) -> None:
    progress.begin("prefills, alone and storing")
    zero_s = time.perf_counter()
    raw_at_s: list[float] = []

    def run_raw() -> float:
        raw_at_s.append(time.perf_counter() - zero_s)
        return raw.run()

    ways: dict[str, Callable[[], float | Prefilled]] = {RAW: run_raw}
    for suffix, factor in RATES.items():
        quanta = prefill.compute.quanta(settings.layer_bytes / (rate_bytes_s * factor))
        ways[alone(suffix)] = partial(prefill.run, quanta, store=False)
        ways[storing(suffix)] = partial(prefill.run, quanta, store=True)
    measured = interleaved(ways, settings.pairs, lambda way: progress.step())
    raw_rates = [rate for rate in measured[RAW] if isinstance(rate, float)]
    runs = {way: [run for run in found if isinstance(run, Prefilled)] for way, found in measured.items()}
    result.rows.append(raw_row(raw_rates, raw_at_s, settings.payload_bytes))
    for suffix in RATES:
        rows = prefill_rows(runs, suffix, zero_s)
        result.rows += rows
        result.summary |= summary_of(rows, suffix)
    produced = result.row(f"{alone('')}: KV produced")["median"]
    result.summary["rate_over_raw"] = produced / statistics.median(raw_rates) * 1e9


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
    return settings.raw_rounds + settings.pairs * (1 + 2 * len(RATES))
