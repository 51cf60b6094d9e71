"""`bench catalog` as a picture."""

from __future__ import annotations

import textwrap
from pathlib import Path

from objectcache.bench.plot import draw_samples, new_figure, save
from objectcache.bench.result import BenchmarkResult, Row


def draw(result: BenchmarkResult, path: Path) -> None:
    """Every row, by its unit: times, rates, bytes a chunk, memory."""
    units = ("s", "chunks/s", "bytes", "MiB")
    figure = new_figure(result, 16, 10)
    for axis, unit in zip(figure.subplots(2, 2).flat, units, strict=True):
        rows: list[Row] = [row for row in result.rows if row["unit"] == unit]
        axis.set_visible(bool(rows))
        if rows:
            draw_samples(axis, [{**row, "name": textwrap.fill(row["name"], 14)} for row in rows])
            if max(row["max"] for row in rows) > 100 * min(row["min"] for row in rows) > 0:
                axis.set_yscale("log")
                axis.set_ylim(bottom=min(row["min"] for row in rows) / 2)
    save(figure, path)
