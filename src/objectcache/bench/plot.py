"""What every benchmark's pictures have in common. Needs matplotlib, which only this module and its users import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from objectcache.bench.result import BenchmarkResult, Row
from objectcache.errors import ConfigError

# Distinguishable with any colour vision, and in grey.
COLOURS = ("#56b4e9", "#006d4f", "#e69f00", "#a04070", "#444444")


def new_figure(result: BenchmarkResult, width_inches: float, height_inches: float) -> Figure:
    """An empty figure, titled with the machine."""
    figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
    FigureCanvasAgg(figure)
    machine = result.machine
    title = f"{result.benchmark}: {machine['cpu']}, {machine['cores']} cores, {machine['kernel']}"
    figure.suptitle(title + (" (quick run)" if result.quick else ""), x=0.01, ha="left")
    return figure


def draw_samples(axis: Any, rows: list[Row]) -> None:
    """Every sample of each row as a dot, its median as a line."""
    for place, row in enumerate(rows):
        colour = COLOURS[place % len(COLOURS)]
        axis.plot([place] * len(row["samples"]), row["samples"], "o", color=colour, alpha=0.5, markersize=4)
        axis.hlines(row["median"], place - 0.3, place + 0.3, color=colour, linewidth=2)
        axis.text(place + 0.33, row["median"], f"{row['median']:.3g}", va="center", fontsize=9)
    axis.set_xticks(range(len(rows)), [row["name"].replace(", ", "\n") for row in rows], fontsize=8)
    axis.set_xlim(-0.6, len(rows) - 0.2)
    axis.set_ylim(bottom=0)
    axis.set_ylabel(rows[0]["unit"])
    axis.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: Path) -> None:
    """As PNG. Raises ConfigError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150, format="png")
    except OSError as error:
        raise ConfigError(f"the plot cannot be written to {path}: {error.strerror}") from error
