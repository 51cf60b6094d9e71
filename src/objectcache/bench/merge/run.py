"""`bench merge`, from an empty directory to a result."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from rich.console import Console

from objectcache.bench.errors import BenchmarkError
from objectcache.bench.gateway import BUCKET, BenchGateway
from objectcache.bench.machine import describe_machine
from objectcache.bench.merge.live import converse
from objectcache.bench.merge.rows import (
    DIRECT,
    FAR,
    GATEWAY,
    MERGED,
    STATES,
    TURNS,
    WHOLE,
    Fetch,
    fetch_rows,
    ratio_rows,
    way,
)
from objectcache.bench.merge.settings import MergeSettings
from objectcache.bench.progress import BenchmarkProgress
from objectcache.bench.result import BenchmarkResult, interleaved, sample_row
from objectcache.bench.retrieve.workload import StoredPrefix, bench_namespace, random_chain, store_prefix
from objectcache.cache.base import KVCache, RetrieveOptions
from objectcache.cache.directory import OBJECTS, open_beside, open_directory
from objectcache.cache.local import LocalCache
from objectcache.cache.merging.merger import Merger
from objectcache.client import ClientOptions, GatewayCache
from objectcache.layout import DeliveryGeometry, PartShape
from objectcache.stores import FileStore
from objectcache.stores.latency import LatencyStore

PACKAGES = ("objectcache", "lmdb", "msgpack", "numpy", "xxhash")
_GRACE_S = 2.0
"""Gateways follow the logs twice a second, and nobody reads meanwhile."""
_AGREE_S = 30.0


def run_merge(settings: MergeSettings, console: Console) -> BenchmarkResult:
    """Measure everything. Raises ObjectCacheError; nothing of it stays anywhere or runs on."""
    with ExitStack() as stack:
        if settings.data is not None:
            settings.data.mkdir(parents=True, exist_ok=True)
        made = tempfile.TemporaryDirectory(prefix="objectcache-bench-", dir=settings.data)
        directory = Path(stack.enter_context(made))
        result = BenchmarkResult("merge", settings.to_dict(), describe_machine(directory, PACKAGES), settings.quick)
        steps = 2 * settings.turns + 2 + 2 * settings.turns + 9 * (1 + settings.pairs)
        progress = stack.enter_context(BenchmarkProgress(console, steps))
        bench = stack.enter_context(_Conversation(settings, directory, progress))
        bench.merge(result)
        progress.begin("first retrievals, checked")
        ways: dict[str, Callable[[], Fetch]] = {}
        for path, cache in bench.caches.items():
            for state, prefix in bench.prefixes.items():
                fetch(cache, prefix, check=True)
                ways[way(path, state)] = partial(fetch, cache, prefix)
                progress.step()
        progress.begin("in turn")
        measured = interleaved(ways, settings.pairs, lambda way: progress.step())
        zero_s = min(fetch.started_s for fetches in measured.values() for fetch in fetches)
        rows = fetch_rows(measured, zero_s)
        ratios = ratio_rows(rows)
        result.rows += [*rows, *ratios]
        result.summary |= {
            "goodput_merged_vs_turns": {
                path: result.row(f"{path}: goodput merged / {TURNS}")["median"] for path in bench.caches
            },
            "goodput_merged_vs_whole": {
                path: result.row(f"{path}: goodput merged / {WHOLE}")["median"] for path in bench.caches
            },
            "first_layer_turns_vs_merged": {
                path: result.row(f"{path}: first layer turns / merged")["median"] for path in bench.caches
            },
            "far_requests": {state: result.row(f"{way(FAR, state)}: requests")["median"] for state in STATES},
            "read_amplification": {
                state: result.row(f"{way(FAR, state)}: read amplification")["median"] for state in STATES
            },
        }
        return result


def fetch(cache: KVCache, prefix: StoredPrefix, *, check: bool = False) -> Fetch:
    """Match and retrieve all of it, layer by layer. `check` compares every byte, untimed. Raises BenchmarkError."""
    local = cache if isinstance(cache, LocalCache) else None
    requests = sum(local.request_counts().values()) if local else 0
    read_bytes = local.reads.read_bytes if local else 0
    start_s = time.perf_counter()
    match = cache.match(prefix.namespace, prefix.chain)
    if match.tokens != len(prefix.chain) * prefix.namespace.layout.key_tokens:
        raise BenchmarkError(f"only {match.tokens} tokens of what was stored match")
    with cache.retrieve(match, options=RetrieveOptions(layers_per_unit=1)) as retrieval:
        landed_s = [unit.landed_s - start_s for unit in retrieval]
        if check:
            prefix.check(retrieval)
    cache.release(match)
    return Fetch(
        started_s=start_s,
        seconds=max(landed_s),
        first_layer_s=landed_s[0],
        payload_bytes=match.payload_bytes,
        requests=sum(local.request_counts().values()) - requests if local and local.request_counts() else None,
        read_bytes=local.reads.read_bytes - read_bytes if local else None,
    )


class _Conversation(ExitStack):
    """The same conversation three times, in a gateway's bucket: by turns, by turns and to be merged, and at once."""

    def __init__(self, settings: MergeSettings, directory: Path, progress: BenchmarkProgress) -> None:
        super().__init__()
        self._settings, self._directory, self._progress = settings, directory, progress
        self.caches: dict[str, KVCache] = {}
        self.prefixes: dict[str, StoredPrefix] = {}

    def __enter__(self) -> _Conversation:
        settings = self._settings
        gateway = self.enter_context(BenchGateway(self._directory / "gateway", {"merge_bytes_s": "0"}))
        layout = settings.shape.layout.shard(0, 0)
        whole = PartShape(layout.layers, layout.slice_bytes, settings.chunks)
        options = ClientOptions(
            access_key=gateway.credentials.access_key,
            secret_key=gateway.credentials.secret_key,
            target="tcp",
            buffer_bytes=DeliveryGeometry((whole,), layers_per_unit=1).total_bytes,
        )
        client = GatewayCache(gateway.host, gateway.port, BUCKET, options)
        self.enter_context(client)
        for number, state in enumerate(STATES):
            self._progress.begin(f"storing: {state}")
            namespace = bench_namespace(settings.shape, settings.seed + number)
            chain = random_chain(namespace, settings.chunks, settings.seed + number)
            in_one = settings.chunks if state == WHOLE else settings.turn_chunks
            self.prefixes[state] = store_prefix(client, namespace, chain, in_one, settings.seed, self._progress.step)
        bucket = self._directory / "gateway" / BUCKET
        buffer_bytes = client.pool.size_bytes
        self._near = LocalCache(open_directory(bucket), buffer_bytes=buffer_bytes)
        self.enter_context(self._near)
        self._near.core.replacing.superseded.grace_s = _GRACE_S
        objects = FileStore(bucket / OBJECTS)
        self.enter_context(objects)
        far = open_beside(LatencyStore(objects, settings.latency_s), self._directory / "far")
        self._far = LocalCache(far, buffer_bytes=buffer_bytes)
        self.enter_context(self._far)
        self.caches = {GATEWAY: client, DIRECT: self._near, FAR: self._far}
        return self

    def merge(self, result: BenchmarkResult) -> None:
        """Merge the second one, which others learn of; then a fourth one while it goes on."""
        self._progress.begin("merging")
        merger, core = Merger(self._near.core), self._near.core
        before = self._ranges(MERGED)
        began_s = time.perf_counter()
        while True:
            runs = [run for run in merger.find_all().runs if run[0].namespace == self.prefixes[MERGED].namespace.digest]
            if not sum(merger.merge(run) for run in runs):
                break
        seconds = time.perf_counter() - began_s
        result.rows += [
            sample_row(f"{TURNS}: ranges a layer", "ranges", [before]),
            sample_row(f"{MERGED}: ranges a layer", "ranges", [self._ranges(MERGED)]),
            sample_row("merging: rate", "GB/s", [core.merges.bytes_rewritten / seconds / 1e9]),
        ]
        self._progress.step()
        self._wait_until_known()
        with LocalCache(open_directory(self._directory / "live"), buffer_bytes=1 << 20) as cache:
            cache.core.replacing.superseded.grace_s = 0.0  # nobody else reads there
            self._progress.begin("merging as it goes on")
            live = converse(cache, self._settings, self._settings.seed, self._progress.step)
        result.rows += [
            sample_row("live: ranges a layer", "ranges", [float(number) for number in live.ranges]),
            sample_row("live: rewritten", "bytes/byte", [live.rewritten_bytes / live.stored_bytes]),
            sample_row("live: merging", "s", [live.merge_s], merges=live.merges),
        ]
        result.summary |= {
            "ranges_per_layer_turns": before,
            "ranges_per_layer_merged": self._ranges(MERGED),
            "ranges_per_layer_live": result.row("live: ranges a layer")["max"],
            "rewritten_per_byte": live.rewritten_bytes / live.stored_bytes,
        }

    def _ranges(self, state: str) -> float:
        """Of a layer of the whole prefix."""
        prefix = self.prefixes[state]
        return float(len(self._near.core.catalog.match_part(prefix.chain, 0, 0)))

    def _wait_until_known(self) -> None:
        """The far cache looks when told; a gateway follows twice a second."""
        self._far.core.follow()
        until_s = time.monotonic() + _AGREE_S
        while self._near.core.replacing.waiting_bytes:
            if time.monotonic() > until_s:
                raise BenchmarkError("what was merged is not deleted in time")
            time.sleep(0.2)
        self._progress.step()
