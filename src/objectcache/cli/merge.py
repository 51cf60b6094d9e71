"""`objectcache merge`: small segments become larger ones now, instead of beside everything else."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from objectcache.cache.core import CacheCore
from objectcache.cache.counters import MergeCounters
from objectcache.cache.explain.opening import find_cache
from objectcache.cache.merging.merger import Findings, Merger
from objectcache.cache.merging.policy import MergeLimits
from objectcache.cli.explain_tables import size
from objectcache.config import parse_bytes
from objectcache.errors import ConfigError
from objectcache.joining import Pace
from objectcache.opening import open_core

MOST_WAITING_BYTES = 4 << 30
"""Of replaced segments that are still there for their readers: beyond that it is waited until those may go."""
_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class MergeReport:
    """`found_segments` of `found_bytes` would become `found_runs`, in the first round; the rest is what was done."""

    found_runs: int
    found_segments: int
    found_bytes: int
    found_duplicates: int
    segments_before: int
    segments_after: int
    seconds: float
    requests: dict[str, int]
    counters: MergeCounters


def add_to(app: typer.Typer) -> None:
    app.command("merge")(merge_command)


def merge_command(
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL",
            envvar="OBJECTCACHE_URL",
            show_default=False,
            help="file:///data or a path (also of a gateway that runs), s3://bucket/prefix or rados://pool/prefix.",
        ),
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be merged.")] = False,
    rate: Annotated[str, typer.Option(help='Bytes a second at most, e.g. "200MiB" (default: no limit).')] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Merge small segments into larger ones, so that a prefix is few ranges to read. Others may go on using the cache.

    Gateways over a directory do this by themselves, for what is read. Replaced segments are deleted once nobody can
    be reading them any more; this waits for it. Interrupted, it leaves nothing that is not swept later.

    [bold]Examples[/bold]

      objectcache merge /var/lib/objectcache/kvcache --dry-run

      objectcache merge s3://kv/prod --rate 200MiB
    """
    pace_bytes_s = float(parse_bytes(rate)) if rate else math.inf
    if pace_bytes_s <= 0:
        raise ConfigError(f"--rate must be positive, got {rate!r}")
    core = open_core(_existing(url))
    try:
        report = _merge_all(core, pace_bytes_s, dry_run=dry_run)
    finally:
        core.close()
    if as_json:
        print(json.dumps(asdict(report), indent=2))
        return
    for line in _lines(report, dry_run=dry_run):
        Console(highlight=False, markup=False, soft_wrap=True).print(line)


def _existing(url: str) -> str:
    """The URL of a cache that is there. Raises ConfigError."""
    if not url:
        raise ConfigError(
            "which cache? Give file:///data, s3://bucket/prefix or rados://pool/prefix, or set OBJECTCACHE_URL"
        )
    parts = urlsplit(url)
    if parts.scheme in ("s3", "rados") or (parts.scheme == "file" and parts.query):
        return url
    if parts.scheme in ("", "file"):
        path = Path(parts.path if parts.scheme else url).expanduser().absolute()
        return str(find_cache(path))
    raise ConfigError(
        f"{url!r} cannot be merged: give the directory or the bucket behind it. A gateway merges by itself, as "
        "`objectcache serve --merge` says"
    )


def _merge_all(core: CacheCore, bytes_s: float, *, dry_run: bool) -> MergeReport:
    merger = Merger(core, MergeLimits.at_rate(bytes_s))
    began_s, before = time.perf_counter(), core.catalog.stats().segments
    first = findings = merger.find_all()
    if not dry_run:
        with _progress() as progress:
            while findings.runs or findings.duplicates:
                done = core.merges.merged + core.merges.duplicates
                _round(core, merger, findings, bytes_s, progress)
                if core.merges.merged + core.merges.duplicates == done:
                    break  # what is left cannot be merged now
                findings = merger.find_all()
            _wait_for_readers(core, progress)
    return MergeReport(
        found_runs=len(first.runs),
        found_segments=sum(map(len, first.runs)),
        found_bytes=first.total_bytes,
        found_duplicates=len(first.duplicates),
        segments_before=before,
        segments_after=core.catalog.stats().segments,
        seconds=time.perf_counter() - began_s,
        requests=dict(core.store.request_counts()),
        counters=core.merges,
    )


def _round(core: CacheCore, merger: Merger, findings: Findings, bytes_s: float, progress: Progress) -> None:
    merger.drop_duplicates(findings)
    task = progress.add_task("merging", total=findings.total_bytes)
    for run in findings.runs:
        run_bytes = sum(segment.total_bytes for segment in run)
        while core.replacing.waiting_bytes + run_bytes > MOST_WAITING_BYTES and core.replacing.waiting_bytes:
            core.replacing.drop_due()
            time.sleep(_POLL_S)
        merger.merge(run, _shown(Pace(bytes_s), lambda read_bytes: progress.advance(task, read_bytes)))
        core.replacing.drop_due()


def _shown(pace: Pace, show: Callable[[int], None]) -> Callable[[int], None]:
    def call(read_bytes: int) -> None:
        pace(read_bytes)
        show(read_bytes)

    return call


def _wait_for_readers(core: CacheCore, progress: Progress) -> None:
    total_bytes = core.replacing.waiting_bytes
    task = progress.add_task("waiting for readers of what was replaced", total=total_bytes)
    while (left_bytes := core.replacing.waiting_bytes) > 0:
        progress.update(task, completed=total_bytes - left_bytes)
        time.sleep(min(_POLL_S, max(0.0, core.replacing.due_in_s())))
        core.replacing.drop_due()


@contextmanager
def _progress() -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield progress


def _lines(report: MergeReport, *, dry_run: bool) -> Iterator[str]:
    found = f"{report.found_segments:,} of {report.segments_before:,} segments"
    if not report.found_runs and not report.found_duplicates:
        yield f"nothing to merge in {report.segments_before:,} segments"
        return
    if dry_run:
        yield f"{found} ({size(report.found_bytes)}) would become {report.found_runs:,}"
        if report.found_duplicates:
            yield f"{report.found_duplicates:,} segments would go, since others hold all of their chunks"
        return
    counters = report.counters
    yield (
        f"{report.segments_before:,} segments became {report.segments_after:,} in {report.seconds:.1f} s; "
        f"{size(counters.bytes_rewritten)} were written"
    )
    for number, what in (
        (counters.duplicates, "went, since others hold all of their chunks"),
        (counters.skipped_room, "merges had no room: free some, or raise the limit"),
        (counters.outrun, "merges were in vain: somebody else evicted or merged the same segments"),
        (counters.failed, "merges failed; the segments at fault are forgotten"),
    ):
        if number:
            yield f"{number:,} {what}"
    if report.requests:
        yield "requests: " + ", ".join(f"{count} {kind}" for kind, count in sorted(report.requests.items()))
