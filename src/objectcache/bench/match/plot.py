"""`bench match` as a picture."""

from __future__ import annotations

import textwrap
from pathlib import Path

from objectcache.bench.plot import draw_samples, new_figure, save
from objectcache.bench.result import BenchmarkResult


def draw(result: BenchmarkResult, path: Path) -> None:
    """Every match, on a scale that a miss and a cold page cache both fit on."""
    rows = [row for row in result.rows if row["unit"] == "ms"]
    figure = new_figure(result, 1.1 * len(rows) + 2, 6)
    axis = figure.subplots()
    draw_samples(axis, [{**row, "name": textwrap.fill(row["name"], 13)} for row in rows])
    axis.set_yscale("log")
    axis.set_ylim(bottom=min(row["min"] for row in rows) / 2)
    save(figure, path)
