"""`bench ttft` as pictures: what each path adds, and where the milliseconds of a run are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from objectcache.bench.plot import COLOURS, new_figure, save
from objectcache.bench.result import BenchmarkResult, Row
from objectcache.bench.ttft.paths import LAYERWISE, LOCAL, RECOMPUTE, RESIDENT

_MARKS = (
    ("sent_ms", "sent", COLOURS[4]),
    ("landed_ms", "landed, verified", COLOURS[0]),
    ("copied_ms", "in place", COLOURS[1]),
    ("needed_ms", "attention begins", COLOURS[2]),
    ("computed_ms", "layer computed", COLOURS[3]),
)

_MOST_SIDE_BY_SIDE = 5
"""Names of paths that fit below a cell's axis one beside the other."""


def draw(result: BenchmarkResult, path: Path) -> None:
    """Above: added TTFT by cell and path. Below: the timeline of a layerwise run of each cell."""
    cells: dict[str, list[Row]] = {}
    for row in result.rows:
        if "path" in row:
            cells.setdefault(row["name"].rpartition(":")[0], []).append(row)
    figure = new_figure(result, max(12, 3.2 * len(cells)), 10)
    names: list[Any] = [[f"added {cell}" for cell in cells], [f"timeline {cell}" for cell in cells]]
    axes = figure.subplot_mosaic(names)
    for cell, rows in cells.items():
        _draw_added(axes[f"added {cell}"], cell, rows)
        _draw_timeline(axes[f"timeline {cell}"], rows)
    save(figure, path)


def _draw_added(axis: Any, cell: str, rows: list[Row]) -> None:
    local = next(row for row in rows if row["path"] == LOCAL)
    shown = [row for row in rows if row["path"] not in (RESIDENT, LOCAL, RECOMPUTE)]
    for place, row in enumerate(shown):
        added = [sample - base for sample, base in zip(row["samples"], local["samples"], strict=False)]
        colour = COLOURS[place % len(COLOURS)]
        axis.plot([place] * len(added), added, "o", color=colour, alpha=0.5, markersize=4)
        axis.hlines(row["added_ms"], place - 0.3, place + 0.3, color=colour, linewidth=2)
    axis.axhline(local["floor_ms"] - local["median"], color=COLOURS[4], linewidth=1, linestyle=":")
    upright = len(shown) > _MOST_SIDE_BY_SIDE
    names = [row["path"] if upright else row["path"].replace(" ", "\n") for row in shown]
    axis.set_xticks(range(len(shown)), names, fontsize=7, rotation=90 if upright else 0)
    axis.set_title(f"{cell}\nlocal DRAM {local['median']:.1f} ms", fontsize=9)
    axis.set_ylabel("added TTFT, ms (dotted: the cap's floor)", fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _draw_timeline(axis: Any, rows: list[Row]) -> None:
    row = next((row for row in rows if row["path"] == LAYERWISE), None)
    if row is None:
        axis.set_visible(False)
        return
    timeline = row["timeline"]
    for name, label, colour in _MARKS:
        if name in timeline:
            axis.plot(timeline[name], range(len(timeline[name])), ".-", color=colour, label=label, linewidth=1)
    axis.set_xlabel("ms from the request", fontsize=8)
    axis.set_ylabel("layer", fontsize=8)
    axis.legend(fontsize=7)
    axis.spines[["top", "right"]].set_visible(False)
