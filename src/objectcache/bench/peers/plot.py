"""`bench peers` as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from objectcache.bench.peers.rows import FIRST_LAYER, GOODPUT, TOTAL, named
from objectcache.bench.plot import COLOURS, new_figure, save
from objectcache.bench.result import BenchmarkResult, Row


def draw(result: BenchmarkResult, path: Path) -> None:
    """Goodput, time to all layers and to the first one of every way: bars to the median, lines over the range."""
    measured = [row for row in result.rows if "way" in row]
    ways = list(dict.fromkeys(row["way"] for row in measured))
    kinds = list(dict.fromkeys(row["kind"] for row in measured))
    figure = new_figure(result, 16, 1.5 + 0.35 * len(ways))
    axes = figure.subplots(1, 3, sharey=True)
    found = {row["name"]: row for row in measured}
    for axis, name in zip(axes, (GOODPUT, TOTAL, FIRST_LAYER), strict=True):
        rows = {place: found[named(way, name)] for place, way in enumerate(ways) if named(way, name) in found}
        _draw_bars(axis, rows, kinds)
        axis.set_title(f"{name}, {next(iter(rows.values()))['unit']}", fontsize=10, loc="left")
    axes[0].set_yticks(range(len(ways)), ways, fontsize=8)
    axes[0].invert_yaxis()
    save(figure, path)


def _draw_bars(axis: Any, rows: dict[int, Row], kinds: list[str]) -> None:
    """`rows` by their place from the top."""
    for place, row in rows.items():
        median, scaled = row["median"], row["layers"] < row["of_layers"] and row["unit"] == "ms"
        around = [[median - row["min"]], [row["max"] - median]]
        colour = COLOURS[kinds.index(row["kind"]) % len(COLOURS)]
        axis.barh(place, median, color=colour, alpha=0.8, xerr=around, ecolor="#222222", capsize=2, log=True)
        note = (f" {median:,.0f}" if median >= 100 else f" {median:.3g}") + (
            " (scaled)" if scaled and row["name"].endswith(TOTAL) else ""
        )
        axis.text(row["max"], place, note, va="center", fontsize=8)
    axis.set_xlim(min(row["min"] for row in rows.values()) / 2, max(row["max"] for row in rows.values()) * 3)
    axis.spines[["top", "right"]].set_visible(False)
