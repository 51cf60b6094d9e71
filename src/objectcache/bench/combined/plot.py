"""Stores and targets as a picture."""

from __future__ import annotations

from pathlib import Path

from objectcache.bench.plot import draw_samples, new_figure, save
from objectcache.bench.result import BenchmarkResult
from objectcache.bench.stores.rows import FIRST_LAYER, GOODPUT, named


def draw(result: BenchmarkResult, path: Path) -> None:
    """Of every store, by target: each measurement of goodput and of the first layer."""
    stores: list[str] = result.options["stores"]
    figure = new_figure(result, 13, 3.5 * len(stores))
    axes = figure.subplots(len(stores), 2, squeeze=False)
    for store, line in zip(stores, axes, strict=True):
        for axis, what in zip(line, (GOODPUT, FIRST_LAYER), strict=True):
            wanted = [named(store, target, what) for target in result.options["targets"]]
            rows = [{**row, "name": row["way"]} for row in result.rows if row["name"] in wanted]
            draw_samples(axis, rows)
            axis.set_title(f"{store}: {what}", fontsize=10, loc="left")
    save(figure, path)
