"""`bench retrieve` as a picture."""

from __future__ import annotations

from pathlib import Path

from objectcache.bench.plot import COLOURS, draw_samples, new_figure, save
from objectcache.bench.result import BenchmarkResult
from objectcache.bench.retrieve.first_byte_rows import FIRST_BYTE
from objectcache.bench.retrieve.rows import LANDED


def draw(result: BenchmarkResult, path: Path) -> None:
    """Ratios to the ceilings, when layers landed (the first shape), and how time to first byte is distributed."""
    figure = new_figure(result, 12, 8)
    axes = figure.subplot_mosaic([["ratios", "ratios"], ["layers", "first byte"]])
    draw_samples(axes["ratios"], [row for row in result.rows if row["unit"] == "ratio"])
    left, right = axes["layers"], axes["first byte"]
    for colour, row in zip(COLOURS, [row for row in result.rows if LANDED in row["name"]], strict=False):
        landed_ms = row["samples"]
        left.plot(landed_ms, range(1, len(landed_ms) + 1), ".-", color=colour, label=row["name"].partition(":")[0])
        left.plot([0, landed_ms[-1]], [0, len(landed_ms)], ":", color=colour)
    left.set_xlabel("ms since asking (dotted: every layer in its share of the time)")
    left.set_ylabel("layers landed")
    left.legend(frameon=False, fontsize=8)
    for colour, row in zip(COLOURS, [row for row in result.rows if row["name"].startswith(FIRST_BYTE)], strict=False):
        count = len(row["samples"])
        shares = [(rank + 1) / count for rank in range(count)]
        right.step(sorted(row["samples"]), shares, color=colour, label=row["name"], where="post")
    right.set_xlim(left=0)
    right.set_xlabel("ms from sending the descriptor to the first frame")
    right.set_ylabel("share of requests")
    right.legend(frameon=False, fontsize=8)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    save(figure, path)
