"""`bench stores`, from stores that answer to a result; what it stored there is deleted again."""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console

from objectcache.bench.machine import describe_machine
from objectcache.bench.progress import BenchmarkProgress
from objectcache.bench.result import BenchmarkResult, interleaved, sample_row
from objectcache.bench.stores.fetch import Fetch
from objectcache.bench.stores.rows import fetch_rows, ratio_rows
from objectcache.bench.stores.settings import StoresSettings
from objectcache.bench.stores.subject import Subject
from objectcache.cache.following import FAR

IDLE_S = 10.0
PACKAGES = ("objectcache", "aiohttp", "lmdb", "msgpack", "numpy", "obstore", "xxhash")


def run_stores(settings: StoresSettings, console: Console) -> BenchmarkResult:
    """Measure everything, all stores in turn. Raises ObjectCacheError; nothing of it stays anywhere or runs on."""
    with ExitStack() as stack:
        directory = stack.enter_context(_directory(settings.data))
        result = BenchmarkResult("stores", settings.to_dict(), describe_machine(directory, PACKAGES), settings.quick)
        # Nobody else's objects are touched, whatever the URL says.
        below = f"objectcache-bench-{secrets.token_hex(6)}"
        subjects = [
            Subject(store.below(below), settings, directory / str(number))
            for number, store in enumerate(settings.stores)
        ]
        steps = sum(2 + len(subject.planned_ways) * (1 + settings.pairs) for subject in subjects)
        progress = stack.enter_context(BenchmarkProgress(console, steps))
        ways: dict[tuple[str, str], Callable[[], Fetch]] = {}
        for subject in subjects:
            progress.begin(f"{subject.store.name}: storing")
            stack.enter_context(subject)
            progress.step(2)
            progress.begin(f"{subject.store.name}: first retrievals, checked")
            for way, (check, measure) in subject.ways().items():
                check()
                ways[subject.store.name, way] = measure
                progress.step()
        progress.begin("in turn")
        measured = interleaved(
            {f"{store}\0{way}": measure for (store, way), measure in ways.items()},
            settings.pairs,
            lambda way: progress.step(),
        )
        zero_s = min(fetch.started_s for fetches in measured.values() for fetch in fetches)
        for subject in subjects:
            name = subject.store.name
            of_store = {way: measured[f"{store}\0{way}"] for store, way in ways if store == name}
            rows = fetch_rows(name, of_store, zero_s)
            ratios = ratio_rows(name, rows)
            result.rows += [*rows, *ratios]
            for ratio in ratios:
                result.summary.setdefault(ratio["key"], {})[ratio["of_store"]] = ratio["median"]
            if not settings.only_rados:
                requests = result.row(f"{name}: direct, requests")["median"]
                result.summary.setdefault("requests_per_retrieve", {})[name] = requests
        if not settings.quick and not settings.only_rados:
            progress.begin("idle")
            idle = _idle_requests(subjects)
            result.rows += [sample_row(f"{name}: direct, idle", "requests/h", [count]) for name, count in idle.items()]
            result.summary["requests_per_idle_hour"] = idle
        return result


def _idle_requests(subjects: Sequence[Subject]) -> dict[str, float]:
    """Of a cache straight on each store, an hour: counted for IDLE_S, when it has not been used for a while."""
    time.sleep(FAR.idle_after_s + 2 * FAR.interval_s)
    before = [subject.direct_requests for subject in subjects]
    time.sleep(IDLE_S)
    return {
        subject.store.name: (subject.direct_requests - count) * 3600 / IDLE_S
        for subject, count in zip(subjects, before, strict=True)
    }


@contextmanager
def _directory(parent: Path | None) -> Iterator[Path]:
    """A temporary directory, gone afterwards."""
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="objectcache-bench-", dir=parent) as made:
        yield Path(made)
