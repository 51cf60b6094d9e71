"""Simulated TTFTs as a picture: what share of requests was at least as fast."""

from __future__ import annotations

from pathlib import Path

from objectcache.bench.plot import COLOURS, new_figure, save
from objectcache.bench.result import BenchmarkResult
from objectcache.bench.simulate.rows import ADDED, TTFT

_LEAST_MS = 0.1  # on an axis that has no 0


def draw(result: BenchmarkResult, path: Path) -> None:
    """A curve for each policy, of TTFT and of added TTFT. Raises ConfigError."""
    figure = new_figure(result, 11, 4.5)
    for axis, name in zip(figure.subplots(1, 2), (TTFT, ADDED), strict=True):
        rows = [row for row in result.rows if row.get("figure") == name]
        for row, colour in zip(rows, COLOURS * len(rows), strict=False):
            times = [max(time, _LEAST_MS) for time in row["quantiles"]]
            last = len(times) - 1
            shares = [place / last for place in range(len(times))]
            label = f"{row['policy']}, mean {row['mean']:,.0f} ms"
            axis.plot(times, shares, color=colour, label=label, drawstyle="steps-post")
        axis.set_xscale("log")
        axis.set_ylim(0, 1.01)
        axis.set_xlabel(f"{name} (ms)")
        axis.set_ylabel("share of requests")
        axis.legend(frameon=False, fontsize=8, loc="upper left")
        axis.spines[["top", "right"]].set_visible(False)
    save(figure, path)
