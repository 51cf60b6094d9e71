"""`bench match`, from a catalog (built where there is none) to a result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console

from objectcache.bench.catalog.run import temporary_directory
from objectcache.bench.catalog.settings import CHUNKS
from objectcache.bench.catalog.site import CatalogSite
from objectcache.bench.machine import describe_machine
from objectcache.bench.match.cold import cold, cold_rows
from objectcache.bench.match.in_process import asked, in_process_rows, ways_of
from objectcache.bench.match.over_http import http_rows, over_http
from objectcache.bench.match.rows import AT_10M, CHAIN_OF_BAR
from objectcache.bench.match.settings import MatchSettings
from objectcache.bench.progress import BenchmarkProgress
from objectcache.bench.result import BenchmarkResult

PACKAGES = ("objectcache", "aiohttp", "lmdb", "msgpack", "numpy")
_HTTP_WAYS = 4
SIZES_OF_BAR = (256, 64)


def run_match(settings: MatchSettings, console: Console) -> BenchmarkResult:
    """Measure everything. Raises ObjectCacheError; nothing runs on, and only what is in `settings.data` stays."""
    workload = settings.size.workload
    with ExitStack() as stack:
        root = stack.enter_context(_root(settings.data))
        result = BenchmarkResult("match", settings.to_dict(), describe_machine(root, PACKAGES), settings.quick)
        site = CatalogSite(root, workload)
        kinds = len(set(settings.size.segment_sizes))
        steps = settings.pairs * (len(ways_of(settings)) + _HTTP_WAYS + kinds) + workload.num_chains
        progress = stack.enter_context(BenchmarkProgress(console, steps))
        progress.begin("building the catalog")
        if site.is_built():
            progress.step(workload.num_chains)
        else:
            site.build(progress.step)
        progress.begin("in this process")
        result.rows += in_process_rows(settings, site, progress.step)
        progress.begin("over HTTP")
        result.rows += http_rows(settings, site, progress.step)
        progress.begin("cold page cache")
        result.rows += cold_rows(settings, site, progress.step)
        _summarize(settings, result)
    if AT_10M not in result.summary:
        console.print(f"{AT_10M}: not measured; the catalog has {workload.num_chunks:,} chunks", highlight=False)
    return result


def _summarize(settings: MatchSettings, result: BenchmarkResult) -> None:
    """The slower of the sizes that the bar is for."""
    longest = settings.longest
    sizes = [size for size in SIZES_OF_BAR if size in settings.size.segment_sizes] or settings.size.segment_sizes
    result.summary["match_ms"] = max(result.row(asked(longest, size))["p50"] for size in sizes)
    if longest == CHAIN_OF_BAR and settings.size.chunks >= CHUNKS:
        result.summary[AT_10M] = result.summary["match_ms"]
    result.summary["match_http_ms"] = result.row(over_http(longest, signed=True))["p50"]
    result.summary["match_cold_ms"] = result.row(cold(max(settings.size.segment_sizes)))["p50"]


@contextmanager
def _root(data: Path | None) -> Iterator[Path]:
    if data is None:
        with temporary_directory(None) as made:
            yield made
    else:
        data.mkdir(parents=True, exist_ok=True)
        yield data
