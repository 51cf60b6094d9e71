"""`bench vllm`: TTFT of all paths in turn, then decodes beside a stalled store."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from rich.console import Console

from objectcache.bench.machine import describe_machine
from objectcache.bench.progress import BenchmarkProgress
from objectcache.bench.result import BenchmarkResult, interleaved
from objectcache.bench.stores.settings import BenchStore
from objectcache.bench.vllm.engine import Prefill
from objectcache.bench.vllm.model import write_model
from objectcache.bench.vllm.paths import Paths, planned, steps
from objectcache.bench.vllm.rows import ALONE, BESIDE, add_stalls, add_ttft
from objectcache.bench.vllm.settings import VllmBenchSettings
from objectcache.bench.vllm.site import started_store
from objectcache.bench.vllm.stalled import measure_stalls

PACKAGES = ("objectcache", "aiohttp", "lmdb", "msgpack", "numpy", "obstore", "xxhash")


def run_vllm(settings: VllmBenchSettings, console: Console) -> BenchmarkResult:
    """Measure everything. Raises ObjectCacheError; nothing of it stays on the disk or runs on."""
    with ExitStack() as stack:
        if settings.data is not None:
            settings.data.mkdir(parents=True, exist_ok=True)
        directory = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="objectcache-bench-", dir=settings.data))
        )
        result = BenchmarkResult("vllm", settings.to_dict(), describe_machine(directory, PACKAGES), settings.quick)
        measurements = len(planned(settings)) * settings.pairs + 2 * settings.stalls
        progress = stack.enter_context(BenchmarkProgress(console, steps(settings) + measurements))
        progress.begin("the model, the store")
        model = directory / "model"
        write_model(model, settings.llama, settings.max_tokens, settings.seed)
        store = stack.enter_context(started_store())
        measured = _measure_ttft(settings, store, model, directory, progress, result)
        add_ttft(result, measured)
        progress.begin("beside a stalled store")
        decoded = measure_stalls(settings, store, model, directory, progress.step)
        add_stalls(result, decoded[ALONE], decoded[BESIDE])
        return result


def _measure_ttft(
    settings: VllmBenchSettings,
    store: BenchStore,
    model: Path,
    directory: Path,
    progress: BenchmarkProgress,
    result: BenchmarkResult,
) -> dict[str, list[Prefill]]:
    """Of each path, prompt by prompt; its engines end with it. Versions of what they run are added to the machine."""
    with Paths(settings, store, model, directory, progress.begin, progress.step) as paths:
        result.machine = {**result.machine, "versions": {**result.machine["versions"], **paths.versions}}
        progress.begin("in turn")
        ways = {name: partial(_measure_next, paths, name, iter(range(settings.pairs))) for name in paths.names}
        return interleaved(ways, settings.pairs, lambda name: progress.step())


def _measure_next(paths: Paths, name: str, numbers: Iterator[int]) -> Prefill:
    return paths.measure(name, next(numbers))
