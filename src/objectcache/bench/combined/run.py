"""Every store with every target, from stores that answer to a result; what it stored there is deleted again."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from objectcache.bench.combined.settings import NIXL, CombinedSettings, NamedStore
from objectcache.bench.combined.subject import Subject
from objectcache.bench.machine import describe_machine
from objectcache.bench.progress import BenchmarkProgress
from objectcache.bench.result import BenchmarkResult, Row, interleaved
from objectcache.bench.stores.fetch import Fetch
from objectcache.bench.stores.rows import FIRST_LAYER, GOODPUT, fetch_rows, named
from objectcache.stores import child_url

PACKAGES = ("objectcache", "aiohttp", "lmdb", "msgpack", "numpy", "obstore", "xxhash")
NIXL_PACKAGES = ("nixl", "nixl-cu12", "nixl-cu13", "torch")


def run_combined(settings: CombinedSettings, console: Console) -> BenchmarkResult:
    """Measure all combinations in turn. Raises ObjectCacheError; nothing of it stays anywhere or runs on."""
    if settings.data is not None:
        settings.data.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        made = stack.enter_context(tempfile.TemporaryDirectory(prefix="objectcache-bench-", dir=settings.data))
        packages = PACKAGES + (NIXL_PACKAGES if NIXL.keys() & set(settings.targets) else ())
        machine = describe_machine(Path(made), packages)
        result = BenchmarkResult("retrieve, by store and target", settings.to_dict(), machine, settings.quick)
        combinations = sum(len(settings.targets_of(store)) for store in settings.stores)
        progress = stack.enter_context(
            BenchmarkProgress(console, 2 * len(settings.stores) + combinations * settings.rounds)
        )
        # Nobody else's objects are touched, whatever the URL says.
        below = f"objectcache-bench-{secrets.token_hex(6)}"
        ways: dict[str, Callable[[], Fetch]] = {}
        for number, store in enumerate(settings.stores):
            progress.begin(f"{store.name}: storing")
            subject = stack.enter_context(
                Subject(_below(store, f"{below}-{number}"), settings, Path(made, str(number)))
            )
            progress.step()
            progress.begin(f"{store.name}: first retrievals, checked")
            ways |= {f"{store.name}\0{target}": measure for target, measure in subject.ways().items()}
            progress.step()
        progress.begin("in turn")
        measured = interleaved(ways, settings.rounds, lambda way: progress.step())
        zero_s = min(fetch.started_s for fetches in measured.values() for fetch in fetches)
        for store in settings.stores:
            fetches = {target: measured[f"{store.name}\0{target}"] for target in settings.targets_of(store)}
            rows = fetch_rows(store.name, fetches, zero_s)
            result.rows += rows
            for target in fetches:
                _sum_up(result, store, target, rows)
        return result


def _below(store: NamedStore, directory: str) -> NamedStore:
    return replace(store, url=child_url(store.url, directory)) if store.url else store


def _sum_up(result: BenchmarkResult, store: NamedStore, target: str, rows: list[Row]) -> None:
    found = {row["name"]: row for row in rows}
    for key, figure in (("goodput_gb_s", GOODPUT), ("first_layer_ms", FIRST_LAYER)):
        median = found[named(store.name, target, figure)]["median"]
        result.summary.setdefault(key, {})[f"{store.name}: {target}"] = median
