"""`bench retrieve` as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from objectcache.bench.plot import COLOURS, draw_samples, new_figure, save
from objectcache.bench.result import BenchmarkResult, Row
from objectcache.bench.retrieve.first_byte_rows import FIRST_BYTE
from objectcache.bench.retrieve.rows import LANDED


def draw(result: BenchmarkResult, path: Path) -> None:
    """Ratios to the ceilings, when layers landed (the first shape), and where it was measured how time to first byte is
    distributed."""
    figure = new_figure(result, 12, 8)
    asked = [row for row in result.rows if row["name"].startswith(FIRST_BYTE)]
    axes = figure.subplot_mosaic([["ratios", "ratios"], ["layers", "first byte" if asked else "layers"]])
    draw_samples(axes["ratios"], [row for row in result.rows if row["unit"] == "ratio"])
    left = axes["layers"]
    for colour, row in zip(COLOURS, [row for row in result.rows if LANDED in row["name"]], strict=False):
        landed_ms = row["samples"]
        left.plot(landed_ms, range(1, len(landed_ms) + 1), ".-", color=colour, label=row["name"].partition(":")[0])
        left.plot([0, landed_ms[-1]], [0, len(landed_ms)], ":", color=colour)
    left.set_xlabel("ms since asking (dotted: every layer in its share of the time)")
    left.set_ylabel("layers landed")
    left.legend(frameon=False, fontsize=8)
    left.spines[["top", "right"]].set_visible(False)
    if asked:
        _draw_first_byte(axes["first byte"], asked)
    save(figure, path)


def _draw_first_byte(axis: Any, rows: list[Row]) -> None:
    for colour, row in zip(COLOURS, rows, strict=False):
        count = len(row["samples"])
        shares = [(rank + 1) / count for rank in range(count)]
        axis.step(sorted(row["samples"]), shares, color=colour, label=row["name"], where="post")
    axis.set_xlim(left=0)
    axis.set_xlabel("ms from sending the descriptor to the first frame")
    axis.set_ylabel("share of requests")
    axis.legend(frameon=False, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
