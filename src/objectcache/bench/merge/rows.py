"""From fetches to rows and the summary: pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from objectcache.bench.bars import Bar
from objectcache.bench.result import Row, ratio_row, sample_row

GATEWAY, DIRECT, FAR = "gateway", "in-process", "far"
PATHS = (GATEWAY, DIRECT, FAR)
TURNS, MERGED, WHOLE = "turns", "merged", "stored at once"
STATES = (TURNS, MERGED, WHOLE)

BARS = (
    Bar("ranges_per_layer_merged", 1.0, at_most=True),
    Bar("goodput_merged_vs_turns", 1.0),
    Bar("rewritten_per_byte", 3.0, at_most=True),
)


@dataclass(frozen=True, slots=True)
class Fetch:
    """One retrieval. `requests` are those to the store, where they are counted; seconds from asking for the match."""

    started_s: float
    seconds: float
    first_layer_s: float
    payload_bytes: int
    requests: int | None = None
    read_bytes: int | None = None


def way(path: str, state: str) -> str:
    return f"{path}, {state}"


def fetch_rows(measured: Mapping[str, Sequence[Fetch]], zero_s: float) -> list[Row]:
    rows = []
    for name, fetches in measured.items():
        at_s = [fetch.started_s - zero_s for fetch in fetches]
        rows.append(sample_row(f"{name}: total", "ms", [fetch.seconds * 1e3 for fetch in fetches], at_s=at_s))
        rows.append(sample_row(f"{name}: first layer", "ms", [fetch.first_layer_s * 1e3 for fetch in fetches]))
        goodput = [fetch.payload_bytes / fetch.seconds / 1e9 for fetch in fetches]
        rows.append(sample_row(f"{name}: goodput", "GB/s", goodput))
        if fetches[0].requests is not None:
            rows.append(sample_row(f"{name}: requests", "requests", [float(fetch.requests or 0) for fetch in fetches]))
        if fetches[0].read_bytes is not None:
            amplification = [(fetch.read_bytes or 0) / fetch.payload_bytes for fetch in fetches]
            rows.append(sample_row(f"{name}: read amplification", "bytes/byte", amplification))
    return rows


def ratio_rows(rows: Sequence[Row]) -> list[Row]:
    """Merged over turns, and merged over stored at once: of goodput and of the time to the first layer."""
    found = {row["name"]: row for row in rows}
    ratios = []
    for path in PATHS:
        merged = found[f"{way(path, MERGED)}: goodput"]
        for state in (TURNS, WHOLE):
            ratios.append(ratio_row(f"{path}: goodput merged / {state}", merged, found[f"{way(path, state)}: goodput"]))
        first = found[f"{way(path, TURNS)}: first layer"]
        name = f"{path}: first layer turns / merged"
        ratios.append(ratio_row(name, first, found[f"{way(path, MERGED)}: first layer"]))
    return ratios
