"""`bench match` as a picture."""

from __future__ import annotations

import textwrap
from pathlib import Path

from objectcache.bench.plot import draw_samples, new_figure, save
from objectcache.bench.result import BenchmarkResult

_ROWS_A_LINE = 13


def draw(result: BenchmarkResult, path: Path) -> None:
    """Every match, on a scale that a miss and a cold page cache both fit on."""
    rows = [row for row in result.rows if row["unit"] == "ms"]
    lines = [rows[at : at + _ROWS_A_LINE] for at in range(0, len(rows), _ROWS_A_LINE)]
    figure = new_figure(result, 15, 4.5 * len(lines))
    for axis, line in zip(figure.subplots(len(lines), squeeze=False).flat, lines, strict=True):
        draw_samples(axis, [{**row, "name": textwrap.fill(row["name"], 13)} for row in line])
        axis.set_yscale("log")
        axis.set_ylim(min(row["min"] for row in rows) / 2, 2 * max(row["max"] for row in rows))
    save(figure, path)
