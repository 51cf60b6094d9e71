"""`bench retrieve`, from an empty directory to a result."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.console import Console

from objectcache.bench.gateway import BenchGateway
from objectcache.bench.listing import ListingLoad
from objectcache.bench.machine import describe_machine
from objectcache.bench.progress import BenchmarkProgress
from objectcache.bench.raw_loop import RawLoop
from objectcache.bench.result import BenchmarkResult, Row, interleaved
from objectcache.bench.retrieve.first_byte_rows import FIRST_BYTE_STEPS, first_byte_rows, first_byte_summary
from objectcache.bench.retrieve.layerwise import LayerwiseClient, open_client
from objectcache.bench.retrieve.planning import PLAN, PLAN_STEPS, planning_rows
from objectcache.bench.retrieve.rows import (
    LAYERWISE,
    LAYERWISE_LISTING,
    RAW,
    RAW_BETWEEN,
    RAW_LISTING,
    growth_mib,
    memory_rows,
    ratio_of,
    tokens,
    transfer_rows,
)
from objectcache.bench.retrieve.settings import RetrieveSettings
from objectcache.bench.retrieve.workload import StoredPrefix, bench_namespace, random_chain, store_prefix
from objectcache.bench.transfer import Transfer
from objectcache.cache.base import KVCache

PACKAGES = ("objectcache", "aiohttp", "lmdb", "msgpack", "numpy", "xxhash")


def run_retrieve(settings: RetrieveSettings, console: Console) -> BenchmarkResult:
    """Measure everything. Raises ObjectCacheError; nothing of it stays on the disk or runs on."""
    with ExitStack() as stack:
        directory = stack.enter_context(_directory(settings.data))
        result = BenchmarkResult("retrieve", settings.to_dict(), describe_machine(directory, PACKAGES), settings.quick)
        progress = stack.enter_context(BenchmarkProgress(console, _steps(settings)))
        gateway = stack.enter_context(BenchGateway(directory / "gateway"))
        cache = open_client(gateway, settings)
        stack.callback(cache.close)
        run = _Run(settings, result, progress, gateway, directory)
        prefix, small = run.store(cache)
        client = run.warm(LayerwiseClient(cache, gateway, prefix))
        run.first_byte(small)
        run.plan()
        raw = stack.enter_context(_raw_loop(gateway, prefix, settings))
        run.goodput(client, raw)
        run.goodput_beside_listings(client, raw)
        return result


@dataclass(frozen=True)
class _Run:
    settings: RetrieveSettings
    result: BenchmarkResult
    progress: BenchmarkProgress
    gateway: BenchGateway
    directory: Path

    def store(self, cache: KVCache) -> tuple[StoredPrefix, StoredPrefix]:
        """The prefix that is retrieved, and the one in small segments."""
        settings = self.settings
        namespace = bench_namespace(settings.shape, settings.seed)
        self.progress.begin("storing prefixes")
        prefixes = []
        for number, (context, segment_chunks) in enumerate(_stored(settings)):
            seed = settings.seed + number
            chain = random_chain(namespace, settings.chunks(context), seed)
            prefixes.append(store_prefix(cache, namespace, chain, segment_chunks, seed, self.progress.step))
        return prefixes[0], prefixes[1]

    def warm(self, client: LayerwiseClient) -> LayerwiseClient:
        """First retrievals, of every context: checked byte by byte, with an eye on the gateway's memory."""
        self.progress.begin("first retrievals, gateway memory")
        samples = {"before": [self.gateway.anonymous_bytes()]}
        for context in self.settings.contexts:
            taken = samples.setdefault(f"during {tokens(context)}", [])
            client = client.warmed(self.settings.chunks(context), partial(self._sample_memory, taken))
            samples[f"after {tokens(context)}"] = [self.gateway.anonymous_bytes()]
            self.progress.step()
        self.result.rows += memory_rows(samples)
        self.result.summary["gateway_anon_growth_mib"] = growth_mib(samples)
        return client

    def _sample_memory(self, taken: list[dict[str, int]]) -> None:
        taken.append(self.gateway.anonymous_bytes())

    def first_byte(self, prefix: StoredPrefix) -> None:
        self.progress.begin("time to first byte")
        settings = self.settings
        rows = first_byte_rows(self.gateway, prefix, settings.streams, settings.first_byte_requests, self.progress.step)
        self.result.rows += rows
        self.result.summary |= first_byte_summary(rows)

    def plan(self) -> None:
        self.progress.begin("planning")
        self.result.rows += planning_rows(self.settings, self.directory, self.progress.step)
        self.result.summary["plan_ms"] = self.result.row(PLAN)["median"]

    def goodput(self, client: LayerwiseClient, raw: RawLoop) -> None:
        for index, context in enumerate(self.settings.contexts):
            self.progress.begin(f"{tokens(context)}, beside the raw loop")
            ways: dict[str, Callable[[], Transfer]] = {
                RAW: partial(raw.run, index),
                LAYERWISE: partial(client.retrieve, self.settings.chunks(context)),
            }
            rows = self._measure(context, ways)
            ratio = ratio_of(context, rows, LAYERWISE, RAW)
            self.result.rows += [*rows, ratio]
            self.result.summary["goodput_ratio"] = ratio["median"]

    def goodput_beside_listings(self, client: LayerwiseClient, raw: RawLoop) -> None:
        """The longest context again, with the control process listing; the raw loop idle and beside the same load."""
        settings = self.settings
        context = settings.contexts[-1]
        raw_loop = partial(raw.run, len(settings.contexts) - 1)
        retrieve = partial(client.retrieve, settings.chunks(context))
        self.progress.begin("storing objects to list")
        with ListingLoad(self.gateway, settings.listed_objects) as load:
            self.progress.step()
            self.progress.begin(f"{tokens(context)}, beside listings")

            def beside(measure: Callable[[], Transfer]) -> Transfer:
                transfer, lists_per_s = load.beside(measure)
                return replace(transfer, lists_per_s=lists_per_s)

            rows = self._measure(
                context,
                {
                    RAW_BETWEEN: raw_loop,
                    LAYERWISE_LISTING: partial(beside, retrieve),
                    RAW_LISTING: partial(beside, raw_loop),
                },
            )
        idle = ratio_of(context, rows, LAYERWISE_LISTING, RAW_BETWEEN)
        loaded = ratio_of(context, rows, LAYERWISE_LISTING, RAW_LISTING)
        self.result.rows += [*rows, idle, loaded]
        self.result.summary["goodput_ratio_busy"] = idle["median"]
        self.result.summary["goodput_ratio_busy_same_load"] = loaded["median"]

    def _measure(self, context: int, ways: Mapping[str, Callable[[], Transfer]]) -> list[Row]:
        measured = interleaved(ways, self.settings.pairs, lambda way: self.progress.step())
        return transfer_rows(context, measured)


@contextmanager
def _directory(parent: Path | None) -> Iterator[Path]:
    """A temporary directory, gone afterwards."""
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="objectcache-bench-", dir=parent) as made:
        yield Path(made)


@contextmanager
def _raw_loop(gateway: BenchGateway, prefix: StoredPrefix, settings: RetrieveSettings) -> Iterator[RawLoop]:
    """Over the very bytes that a retrieval of each context delivers, in the same order."""
    with ExitStack() as stack:
        store = stack.enter_context(gateway.open_store())
        fds = []
        for header in prefix.headers:
            reader = stack.enter_context(store.open(header.name))
            ranges = stack.enter_context(reader.files(0, header.total_bytes))
            assert ranges is not None
            fds.append(ranges[0].descriptor)
        sets = []
        for context in settings.contexts:
            chunks = settings.chunks(context)
            sets.append(
                [
                    (fd, header.geometry.slice_offset(position, 0), taken * header.slice_bytes[position])
                    for position in range(settings.shape.num_layers)
                    for fd, header in zip(fds, prefix.headers, strict=True)
                    if (taken := min(header.num_chunks, chunks - header.depth)) > 0
                ]
            )
        raw = stack.enter_context(RawLoop(sets, settings.connections))
        raw.run(len(sets) - 1)  # its memory is written, as the client's is
        yield raw


def _stored(settings: RetrieveSettings) -> list[tuple[int, int]]:
    """(context, chunks a segment) of the prefixes that are stored."""
    return [
        (settings.contexts[-1], settings.segment_chunks),
        (settings.contexts[0], settings.first_byte_segment_chunks),
    ]


def _steps(settings: RetrieveSettings) -> int:
    segments = sum(-(-settings.chunks(context) // size) for context, size in _stored(settings))
    contexts = len(settings.contexts)
    transfers = settings.pairs * (2 * contexts + 3)
    return segments + contexts + FIRST_BYTE_STEPS + PLAN_STEPS + 1 + transfers
