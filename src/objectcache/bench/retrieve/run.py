"""`bench retrieve`, from an empty directory to a result."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from rich.console import Console

from objectcache.bench.gateway import BenchGateway
from objectcache.bench.listing import ListingLoad
from objectcache.bench.machine import describe_machine
from objectcache.bench.progress import BenchmarkProgress
from objectcache.bench.result import BenchmarkResult, interleaved
from objectcache.bench.retrieve.compared import Retrieve, Way
from objectcache.bench.retrieve.first_byte_rows import FIRST_BYTE_STEPS, first_byte_rows, first_byte_summary
from objectcache.bench.retrieve.layerwise import LayerwiseClient
from objectcache.bench.retrieve.planning import PLAN, PLAN_STEPS, planning_rows
from objectcache.bench.retrieve.rows import (
    LAYERWISE_LISTING,
    RAW_BETWEEN,
    RAW_LISTING,
    first_layer_row,
    growth_mib,
    memory_rows,
    ratio_of,
    transfer_rows,
)
from objectcache.bench.retrieve.settings import RetrieveSettings, Sampled, tokens
from objectcache.bench.retrieve.shared_memory import shared_memory_rows, shared_memory_steps
from objectcache.bench.retrieve.subject import Subject, open_subject, store
from objectcache.bench.retrieve.ways import LAYERWISE, RAW_LOOP, comparisons
from objectcache.bench.transfer import Transfer

PACKAGES = ("objectcache", "aiohttp", "lmdb", "msgpack", "numpy", "xxhash")
NIXL_PACKAGES = ("nixl", "nixl-cu12", "nixl-cu13", "torch")
REFERENCE_CONTEXT = 16384
"""Of the first shape: what the figures that are one number are of, or the longest context up to it."""


def run_retrieve(settings: RetrieveSettings, console: Console) -> BenchmarkResult:
    """Measure everything. Raises ObjectCacheError; nothing of it stays on the disk or runs on."""
    with ExitStack() as stack:
        directory = stack.enter_context(_directory(settings.data))
        packages = PACKAGES + (NIXL_PACKAGES if settings.target == "nixl" else ())
        result = BenchmarkResult("retrieve", settings.to_dict(), describe_machine(directory, packages), settings.quick)
        progress = stack.enter_context(BenchmarkProgress(console, _steps(settings)))
        run = _Run(settings, result, progress, directory)
        for sampled in settings.samples():
            with _directory(directory) as data:
                progress.begin(f"{sampled.shape.key}: storing")
                with open_subject(settings, sampled, data, progress.step) as subject:
                    run.measure(subject)
        return result


@dataclass
class _Run:
    settings: RetrieveSettings
    result: BenchmarkResult
    progress: BenchmarkProgress
    directory: Path
    _first_byte_ms: float = field(init=False, default=0.0)

    def measure(self, subject: Subject) -> None:
        first = not self.settings.only_delivery and subject.sampled == self.settings.samples()[0]
        if first:
            self.memory(subject)
            self.first_byte(subject)
            self.plan()
        compared = comparisons(self.settings)
        ways = {way.name: way for pair in compared for way in (pair.ceiling, pair.way)}
        with ExitStack() as stack:
            opened = {name: self._open(stack, subject, way) for name, way in ways.items()}
            for context in subject.sampled.contexts:
                self.beside_ceilings(subject, opened, context)
            if first:
                self.beside_listings(subject, opened[LAYERWISE.name], opened[RAW_LOOP.name])
        if first:
            self.shared_memory(subject)

    def shared_memory(self, subject: Subject) -> None:
        self.progress.begin(f"{subject.sampled.shape.key}: shared memory")
        rows, ratios = shared_memory_rows(subject, self.progress.step)
        self.result.rows += rows
        self.result.summary["shm_ratio"] = ratios

    def _open(self, stack: ExitStack, subject: Subject, way: Way) -> Retrieve:
        self.progress.begin(f"{subject.sampled.shape.key}: {way.name}, first time")
        retrieve = stack.enter_context(way.open(subject))
        self.progress.step()
        return retrieve

    def memory(self, subject: Subject) -> None:
        """Of the gateway, while every context is retrieved for the first time."""
        self.progress.begin("first retrievals, gateway memory")
        gateway, shape = subject.gateway, subject.sampled.shape
        samples = {"before": [gateway.anonymous_bytes()]}
        cache = subject.client(verify="all")
        try:
            client = LayerwiseClient(cache, gateway, subject.prefix)
            for context in subject.sampled.contexts:
                taken = samples.setdefault(f"during {tokens(context)}", [])
                sample = partial(_sample_memory, gateway, taken)
                client.retrieve(shape.chunks(context), landed=sample)
                samples[f"after {tokens(context)}"] = [gateway.anonymous_bytes()]
                self.progress.step()
        finally:
            cache.close()
        self.result.rows += memory_rows(samples)
        self.result.summary["gateway_anon_growth_mib"] = growth_mib(samples)

    def first_byte(self, subject: Subject) -> None:
        settings, sampled = self.settings, subject.sampled
        self.progress.begin("time to first byte")
        prefix = store(
            subject.gateway,
            settings,
            sampled,
            sampled.contexts[0],
            settings.first_byte_segment_chunks,
            settings.seed + 1,
            self.progress.step,
        )
        requests = settings.first_byte_requests
        rows = first_byte_rows(subject.gateway, prefix, settings.streams, requests, self.progress.step)
        self.result.rows += rows
        self.result.summary |= first_byte_summary(rows)
        striped = f"first byte, {settings.streams} connections"
        self._first_byte_ms = next(row["p50"] for row in rows if row["name"] == striped)

    def plan(self) -> None:
        self.progress.begin("planning")
        self.result.rows += planning_rows(self.settings, self.directory, self.progress.step)
        self.result.summary["plan_ms"] = self.result.row(PLAN)["median"]

    def beside_ceilings(self, subject: Subject, opened: Mapping[str, Retrieve], context: int) -> None:
        """Every way at one context, in turn with the ceilings."""
        summary, sampled = self.result.summary, subject.sampled
        name = sampled.name(context)
        self.progress.begin(f"{name}, beside ceilings")
        measured = self._in_turn({way: partial(retrieve, context) for way, retrieve in opened.items()})
        rows = transfer_rows(name, measured, sampled.about | {"context_tokens": context})
        for pair in comparisons(self.settings):
            ratio = ratio_of(name, rows, pair.way.name, pair.ceiling.name)
            rows.append(ratio)
            summary.setdefault(pair.key, {})[name] = ratio["median"]
        self.result.rows += rows
        if self.settings.only_delivery:
            return
        factor = first_layer_row(name, LAYERWISE.name, measured[LAYERWISE.name], self._first_byte_ms)
        self.result.rows.append(factor)
        if (sampled, context) == _reference(self.settings):
            summary["goodput_ratio"] = summary["tcp_ratio"][name]
            summary["first_layer_factor"] = factor["median"]

    def beside_listings(self, subject: Subject, retrieve: Retrieve, raw_loop: Retrieve) -> None:
        """With the control process listing; the raw loop idle and beside the same load."""
        sampled, context = _reference(self.settings)
        name = sampled.name(context)
        self.progress.begin("storing objects to list")
        with ListingLoad(subject.gateway, self.settings.listed_objects) as load:
            self.progress.step()
            self.progress.begin(f"{name}, beside listings")

            def beside(measure: Retrieve) -> Transfer:
                transfer, lists_per_s = load.beside(partial(measure, context))
                return replace(transfer, lists_per_s=lists_per_s)

            measured = self._in_turn(
                {
                    RAW_BETWEEN: partial(raw_loop, context),
                    LAYERWISE_LISTING: partial(beside, retrieve),
                    RAW_LISTING: partial(beside, raw_loop),
                }
            )
        rows = transfer_rows(name, measured, sampled.about | {"context_tokens": context})
        idle = ratio_of(name, rows, LAYERWISE_LISTING, RAW_BETWEEN)
        loaded = ratio_of(name, rows, LAYERWISE_LISTING, RAW_LISTING)
        self.result.rows += [*rows, idle, loaded]
        self.result.summary["goodput_ratio_busy"] = idle["median"]
        self.result.summary["goodput_ratio_busy_same_load"] = loaded["median"]

    def _in_turn(self, ways: Mapping[str, Callable[[], Transfer]]) -> dict[str, list[Transfer]]:
        return interleaved(ways, self.settings.pairs, lambda way: self.progress.step())


def _sample_memory(gateway: BenchGateway, taken: list[dict[str, int]]) -> None:
    taken.append(gateway.anonymous_bytes())


def _reference(settings: RetrieveSettings) -> tuple[Sampled, int]:
    first = settings.samples()[0]
    return first, max((c for c in first.contexts if c <= REFERENCE_CONTEXT), default=first.contexts[0])


@contextmanager
def _directory(parent: Path | None) -> Iterator[Path]:
    """A temporary directory, gone afterwards."""
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="objectcache-bench-", dir=parent) as made:
        yield Path(made)


def _steps(settings: RetrieveSettings) -> int:
    samples = settings.samples()
    compared = comparisons(settings)
    ways = len({way.name for pair in compared for way in (pair.ceiling, pair.way)})
    steps = 0
    if not settings.only_delivery:
        steps += len(samples[0].contexts) + FIRST_BYTE_STEPS + PLAN_STEPS + 1 + 3 * settings.pairs
        steps += -(-samples[0].shape.chunks(samples[0].contexts[0]) // settings.first_byte_segment_chunks)
        steps += shared_memory_steps(settings)
    for sampled in samples:
        steps += -(-sampled.shape.chunks(sampled.contexts[-1]) // settings.segment_chunks)
        steps += ways + ways * settings.pairs * len(sampled.contexts)
    return steps
