"""From times of matches to rows and the summary: pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from objectcache.bench.bars import Bar
from objectcache.bench.catalog.settings import CHUNKS
from objectcache.bench.result import Row, percentile, ratio_row, sample_row

AT_10M = "match_ms_4096_at_10m"
CHAIN_OF_BAR = 4096

Passes = Sequence[Sequence[float]]
"""Seconds of single matches, pass by pass."""


def bars(chunks: int) -> tuple[Bar, ...]:
    """Those that a catalog of so many chunks is held to: a smaller one says nothing of ten million."""
    return (Bar(AT_10M, 1.0, at_most=True),) if chunks >= CHUNKS else ()


def time_row(name: str, passes: Passes, **about: object) -> Row:
    """Milliseconds of all single matches, with `p50` and `p99`."""
    times_ms = [seconds * 1e3 for one in passes for seconds in one]
    return sample_row(name, "ms", times_ms, p50=percentile(times_ms, 50), p99=percentile(times_ms, 99), **about)


def ratio_of(measured: Mapping[str, Passes], of: str, over: str) -> Row:
    """Of the medians of passes that were made in turn."""
    above, below = (sample_row(way, "s", [median(one) for one in measured[way]]) for way in (of, over))
    return ratio_row(f"{of} / {over}", above, below)
