"""`bench stores` as a picture."""

from __future__ import annotations

import textwrap
from pathlib import Path

from objectcache.bench.plot import draw_samples, new_figure, save
from objectcache.bench.result import BenchmarkResult, Row
from objectcache.bench.stores.rows import DELAYED, FIRST_LAYER, TOTAL, named


def draw(result: BenchmarkResult, path: Path) -> None:
    """Of every store: each measurement of the total and the first layer, near, and far where that was measured."""
    stores: list[str] = result.options["stores"]
    figure = new_figure(result, 15, 4.5 * len(stores))
    axes = figure.subplots(len(stores), 3, width_ratios=[6, 5, 3], squeeze=False)
    for store, line in zip(stores, axes, strict=True):
        near = [row for row in result.rows if row.get("store") == store and DELAYED not in row.get("way", DELAYED)]
        far = [row for row in result.rows if row.get("store") == store and DELAYED in row.get("way", "")]
        for axis, rows, figure_name in zip(line, (near, near, far), (TOTAL, FIRST_LAYER, TOTAL), strict=True):
            chosen = _chosen(rows, store, figure_name)
            axis.set_visible(bool(chosen))
            if chosen:
                draw_samples(axis, chosen)
                if rows is near:  # from the hot gateway to a request per slice is a factor of many
                    axis.set_yscale("log")
                    axis.set_ylim(bottom=min(row["min"] for row in chosen) / 2)
                axis.set_title(f"{store}: {figure_name}", fontsize=10, loc="left")
    save(figure, path)


def _chosen(rows: list[Row], store: str, figure_name: str) -> list[Row]:
    """Rows of one figure, by the names of their ways, in lines of a word or two."""
    found = [row for row in rows if row["name"] == named(store, row["way"], figure_name)]
    return [{**row, "name": textwrap.fill(row["way"], 12)} for row in found]
