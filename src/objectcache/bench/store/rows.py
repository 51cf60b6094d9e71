"""From measurements to rows and the summary: pure arithmetic."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from objectcache.bench.bars import Bar
from objectcache.bench.result import Row, percentile, ratio_row, sample_row
from objectcache.bench.store.prefill import Prefilled

RAW = "raw loop beside a busy core"
RATES = {"": 1.0, "_double": 2.0}
"""Suffixes of the summary's keys, and the rate relative to the settings' own."""

BARS = (
    Bar("prefill_slowdown", 1.03, at_most=True),
    Bar("stored_fraction", 0.99),
    Bar("prefill_slowdown_double", 1.03, at_most=True),
)


BARE = "_raw"
"""Suffix of what is measured beside a bare process that moves the same bytes."""


def alone(suffix: str) -> str:
    return f"prefill alone{_named(suffix)}"


def beside_bare(suffix: str) -> str:
    return f"prefill, bare copy{_named(suffix)}"


def storing(suffix: str) -> str:
    return f"prefill, storing{_named(suffix)}"


def _named(suffix: str) -> str:
    return ", at twice the rate" if suffix else ""


def raw_row(rates_bytes_s: Sequence[float], at_s: Sequence[float], payload_bytes: int) -> Row:
    return sample_row(RAW, "GB/s", [rate / 1e9 for rate in rates_bytes_s], at_s=list(at_s), payload_bytes=payload_bytes)


def prefill_rows(measured: Mapping[str, Sequence[Prefilled]], suffix: str, zero_s: float) -> list[Row]:
    """Rows of one rate; the last four are the slowdowns and what was stored and dropped."""
    rows = []
    for way in (alone(suffix), beside_bare(suffix), storing(suffix)):
        runs = measured[way]
        at_s = [run.started_s - zero_s for run in runs]
        about = {"payload_bytes": runs[0].produced_bytes}
        rows.append(sample_row(way, "s", [run.seconds for run in runs], at_s=at_s, **about))
        rates = [run.produced_bytes / run.seconds / 1e9 for run in runs]
        rows.append(sample_row(f"{way}: KV produced", "GB/s", rates, **about))
        waited = [run.waited_s / run.seconds for run in runs]
        rows.append(sample_row(f"{way}: waiting for its core", "share of time", waited))
    name, runs = storing(suffix), measured[storing(suffix)]
    calls_us = [call_s * 1e6 for run in runs for call_s in run.call_s]
    if calls_us:
        shares = {"p50": percentile(calls_us, 50), "p99": percentile(calls_us, 99)}
        rows.append(sample_row(f"{name}: handing over a layer", "µs", calls_us, **shares))
    per_gb = [run.cpu_s / (run.produced_bytes / 1e9) for run in runs]
    rows.append(sample_row(f"{name}: CPU beside the prefill", "CPU s/GB", per_gb))
    rows.append(sample_row(f"{name}: until all was visible", "s", [run.drained_s for run in runs]))
    rows.append(ratio_row(f"slowdown beside a bare copy{_named(suffix)}", rows[3], rows[0]))
    rows.append(ratio_row(f"slowdown{_named(suffix)}", rows[6], rows[0]))
    rows.append(sample_row(f"stored{_named(suffix)}", "share", [run.stored for run in runs]))
    rows.append(sample_row(f"dropped{_named(suffix)}", "share", [run.dropped for run in runs]))
    return rows


def summary_of(rows: Sequence[Row], suffix: str) -> dict[str, float]:
    """Slowdowns are medians of the pairs; stored and dropped are shares of all bytes of all runs."""
    bare, slowdown, stored, dropped = rows[-4:]
    return {
        f"prefill_slowdown{suffix}": slowdown["median"],
        f"prefill_slowdown{suffix}{BARE}": bare["median"],
        f"stored_fraction{suffix}": statistics.fmean(stored["samples"]),
        f"dropped_fraction{suffix}": statistics.fmean(dropped["samples"]),
    }
