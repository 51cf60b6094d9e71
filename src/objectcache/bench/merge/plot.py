"""`bench merge` as a picture."""

from __future__ import annotations

from pathlib import Path

from objectcache.bench.merge.rows import FAR, PATHS, STATES, way
from objectcache.bench.plot import COLOURS, draw_samples, new_figure, save
from objectcache.bench.result import BenchmarkResult, Row


def draw(result: BenchmarkResult, path: Path) -> None:
    """Every retrieval's total by path, requests to the far store, and ranges while a conversation goes on."""
    figure = new_figure(result, 15, 8)
    axes = figure.subplots(2, 3)
    for axis, place in zip(axes[0], PATHS, strict=True):
        draw_samples(axis, _rows(result, place, "total"))
        axis.set_title(f"{place}: total", fontsize=10, loc="left")
    draw_samples(axes[1][0], _rows(result, FAR, "requests"))
    axes[1][0].set_title("far: requests a retrieval", fontsize=10, loc="left")
    draw_samples(axes[1][1], _rows(result, FAR, "first layer"))
    axes[1][1].set_title("far: first layer", fontsize=10, loc="left")
    live, axis = result.row("live: ranges a layer")["samples"], axes[1][2]
    axis.step(range(1, len(live) + 1), live, where="mid", color=COLOURS[1], label="merged as it goes on")
    axis.plot([1, len(live)], [1, len(live)], ":", color=COLOURS[0], label="not merged")
    axis.set_xlabel("turns")
    axis.set_ylabel("ranges a layer")
    axis.legend(frameon=False, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def _rows(result: BenchmarkResult, path: str, figure: str) -> list[Row]:
    return [{**result.row(f"{way(path, state)}: {figure}"), "name": state} for state in STATES]
