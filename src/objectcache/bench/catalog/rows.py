"""From what was measured of catalogs to rows and the summary: pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from objectcache.bench.bars import Bar
from objectcache.bench.result import Row, sample_row

_MIB = 1 << 20

FROM_LOG, FROM_SNAPSHOT = "rebuild from the log", "rebuild from a snapshot"
OPEN_WARM, OPEN_COLD = "open", "open, cold page cache"
FILLED = "bytes a chunk on disk"

BARS = (Bar("bytes_per_chunk", 120.0, at_most=True), Bar("open_s", 1.0, at_most=True))
LEAST_CHUNKS = 1_000_000
"""Below, most of a catalog that grows is pages that two transactions keep free, and bytes a chunk say little."""


def bars(chunks: int) -> tuple[Bar, ...]:
    """Those that a catalog of so many chunks is held to."""
    return BARS if chunks >= LEAST_CHUNKS else BARS[1:]


def rebuild_rows(name: str, answers: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Of rebuilds in processes of their own."""
    about = {"chunks": answers[0]["chunks"], "segments": answers[0]["segments"]}
    return [
        sample_row(name, "s", [answer["seconds"] for answer in answers], **about),
        sample_row(f"{name}: rate", "chunks/s", [answer["chunks"] / answer["seconds"] for answer in answers]),
        peak_row(name, answers),
    ]


def peak_row(name: str, answers: Sequence[Mapping[str, Any]]) -> Row:
    peaks = [answer["peak_anonymous_bytes"] / _MIB for answer in answers]
    return sample_row(f"{name}: anonymous memory at most", "MiB", peaks)


def memory_rows(name: str, answer: Mapping[str, Any]) -> list[Row]:
    """Of a process that has matched chains in the catalog."""
    return [
        sample_row(f"{name}: anonymous memory", "MiB", [answer["anonymous_bytes"] / _MIB]),
        sample_row(f"{name}: mapped pages in memory", "MiB", [answer["mapped_bytes"] / _MIB]),
    ]
