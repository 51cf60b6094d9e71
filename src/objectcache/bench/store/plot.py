"""`bench store` as a picture."""

from __future__ import annotations

from pathlib import Path

from objectcache.bench.plot import draw_samples, new_figure, save
from objectcache.bench.result import BenchmarkResult


def draw(result: BenchmarkResult, path: Path) -> None:
    """The slowdown of every pair, what was stored, and the rates."""
    figure = new_figure(result, 13, 8)
    axes = figure.subplot_mosaic([["slowdown", "stored"], ["rates", "rates"]])
    draw_samples(axes["slowdown"], [row for row in result.rows if row["unit"] == "ratio"])
    axes["slowdown"].set_ylim(0.9, max(1.1, *(row["max"] for row in result.rows if row["unit"] == "ratio")) + 0.02)
    draw_samples(axes["stored"], [row for row in result.rows if row["unit"] == "share"])
    draw_samples(axes["rates"], [row for row in result.rows if row["unit"] == "GB/s"])
    save(figure, path)
