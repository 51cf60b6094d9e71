"""`bench modes`, from stored prefixes to a result: a client whose engine waits its windows."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median

from rich.console import Console

from objectcache.bench.bars import Bar
from objectcache.bench.catalog.run import temporary_directory
from objectcache.bench.gateway import BUCKET, BenchGateway
from objectcache.bench.machine import describe_machine
from objectcache.bench.modes.settings import CHOSEN, FACTORS, NO_CAP, ModesSettings, h100_windows
from objectcache.bench.progress import BenchmarkProgress
from objectcache.bench.result import BenchmarkResult, interleaved, ratio_row, sample_row
from objectcache.bench.retrieve.workload import StoredPrefix, bench_namespace, random_chain, store_prefix
from objectcache.bench.shapes import SHAPES
from objectcache.cache.base import CHUNKWISE, RetrieveOptions
from objectcache.client import ClientOptions, GatewayCache

PACKAGES = ("objectcache", "aiohttp", "lmdb", "msgpack", "numpy", "xxhash")
WORST = "worst_over_best_fixed"
BARS = (Bar(WORST, 1.05, at_most=True),)
_SEED = 7


@dataclass(slots=True)
class _Point:
    """One prefix and the windows behind it. `chosen` is what the gateway said last."""

    cache: GatewayCache
    prefix: StoredPrefix
    chunks: int
    windows_s: tuple[float, ...]
    chosen: tuple[int, str] = (0, "")

    def ttft_s(self, layers_per_unit: int) -> float:
        """From the request on, until the last layer is computed."""
        match = self.cache.match(self.prefix.namespace, self.prefix.chain[: self.chunks])
        options = RetrieveOptions(layers_per_unit=layers_per_unit, windows_s=self.windows_s)
        start_s = time.perf_counter()
        with self.cache.retrieve(match, options=options) as retrieval:
            for layer, window_s in enumerate(self.windows_s):
                retrieval.wait(layer)
                time.sleep(window_s)
            taken_s = time.perf_counter() - start_s
            if not layers_per_unit:
                self.chosen = (retrieval.geometry.layers_per_unit, retrieval.reason)
        self.cache.release(match)
        return taken_s


def run_modes(settings: ModesSettings, console: Console, directory: Path | None = None) -> BenchmarkResult:
    """Measure everything, in `directory` (default: a temporary one). Raises ObjectCacheError."""
    with ExitStack() as stack:
        root = stack.enter_context(temporary_directory(directory))
        result = BenchmarkResult("modes", settings.to_dict(), describe_machine(root, PACKAGES), settings.quick)
        points = len(settings.caps) * len(settings.shapes) * len(settings.contexts) * len(settings.hits)
        steps = points * settings.rounds * (len(settings.fixed) + 1)
        progress = stack.enter_context(BenchmarkProgress(console, steps))
        stored: dict[str, StoredPrefix] = {}
        for cap in settings.caps:
            with ExitStack() as opened:
                gateway = opened.enter_context(BenchGateway(root, {} if cap == NO_CAP else {"bandwidth": cap}))
                keys = gateway.credentials
                options = ClientOptions(target=settings.target, access_key=keys.access_key, secret_key=keys.secret_key)
                cache = GatewayCache(gateway.host, gateway.port, BUCKET, options)
                opened.callback(cache.close)
                for key in settings.shapes:
                    progress.begin(f"{key}: storing")
                    stored[key] = stored.get(key) or _store(settings, key, cache)
                    _measure_shape(settings, cap, key, cache, stored[key], result, progress)
    ratios = {row["name"]: row["over_best"] for row in result.rows if row.get("way") == CHOSEN}
    result.summary[WORST] = max(ratios.values())
    result.summary["over_best_fixed"] = ratios
    return result


def _store(settings: ModesSettings, key: str, cache: GatewayCache) -> StoredPrefix:
    """As long as the longest that is asked for."""
    shape = SHAPES[key]
    chunks = settings.chunks(max(settings.contexts), max(settings.hits), shape.chunk_tokens)
    namespace = bench_namespace(shape, _SEED)
    return store_prefix(cache, namespace, random_chain(namespace, chunks, _SEED), 64, _SEED, lambda: None)


def _measure_shape(
    settings: ModesSettings,
    cap: str,
    key: str,
    cache: GatewayCache,
    prefix: StoredPrefix,
    result: BenchmarkResult,
    progress: BenchmarkProgress,
) -> None:
    shape, windows = SHAPES[key], h100_windows()
    for context, hit in product(settings.contexts, settings.hits):
        chunks = settings.chunks(context, hit, shape.chunk_tokens)
        held = chunks * shape.chunk_tokens
        window_s = FACTORS[key] * (windows.predict_s(context - held, held) or 0.0)
        point = _Point(cache, prefix, chunks, (window_s,) * shape.num_layers)
        name = f"{key}, {context} tokens, {hit:g} %, cap {cap}"
        progress.begin(name)
        ways = {_way(count): partial(point.ttft_s, count) for count in (*settings.fixed, 0)}
        for measure in ways.values():
            measure()
        measured = interleaved(ways, settings.rounds, lambda way: progress.step())
        rows = {
            way: sample_row(f"{name}: {way}", "ms", [one * 1e3 for one in seconds]) for way, seconds in measured.items()
        }
        best = min((way for way in rows if way != CHOSEN), key=lambda way: rows[way]["median"])
        per_unit, reason = point.chosen
        about = {"layers_per_unit": per_unit, "reason": reason, "window_ms": window_s * 1e3}
        ratio = ratio_row(name, rows[CHOSEN], rows[best], way=CHOSEN, best=best, **about)
        ratio["over_best"] = median(rows[CHOSEN]["samples"]) / rows[best]["median"]
        result.rows += [*rows.values(), ratio]


def _way(layers_per_unit: int) -> str:
    return {0: CHOSEN, CHUNKWISE: "all"}.get(layers_per_unit, str(layers_per_unit))
