"""`bench contention` as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from objectcache.bench.contention.rows import EQUAL, REAL, SIMULATED
from objectcache.bench.plot import COLOURS, new_figure, save
from objectcache.bench.result import BenchmarkResult, Row


def draw(result: BenchmarkResult, path: Path) -> None:
    """Added TTFT of all requests by policy, each mix's gain, and real beside simulated."""
    figure = new_figure(result, 15, 5)
    left, middle, right = figure.subplots(1, 3)
    rows = [one for one in result.rows if one.get("windows") == "as they are"]
    by_policy: dict[str, list[Row]] = {}
    for one in rows:
        by_policy.setdefault(one["policy"], []).append(one)
    for place, (policy, ones) in enumerate(by_policy.items()):
        colour = COLOURS[place % len(COLOURS)]
        added = sorted(max(0.1, sample) for one in ones for sample in one["samples"])
        left.step(added, [(index + 1) / len(added) for index in range(len(added))], color=colour, label=policy)
        if policy != EQUAL:
            gains = [base["mean"] / max(one["mean"], 0.1) for one, base in zip(ones, by_policy[EQUAL], strict=True)]
            for kind, marker in ((REAL, "o"), (SIMULATED, "x")):
                places = [index for index, one in enumerate(ones) if one["kind"] == kind]
                label = policy if kind == ones[0]["kind"] else None
                middle.plot(places, [gains[i] for i in places], marker, color=colour, markersize=4, label=label)
        real = [one for one in ones if one["kind"] == REAL]
        pairs = [pair for one in real for pair in zip(one["simulated_ms"], one["samples"], strict=True)]
        if pairs:
            right.plot(*zip(*pairs, strict=True), ".", color=colour, markersize=4, label=policy)
            most = max(map(max, pairs))
            right.plot([0, most], [0, most], ":", color="#888888", linewidth=1)
    _finish(left, "added TTFT, all requests", "ms", "share of requests")
    left.set_xscale("log")
    middle.axhline(1.0, color="#888888", linewidth=1)
    _finish(middle, "mean added TTFT, equal over the policy (real: dots)", "mix", "gain")
    middle.set_yscale("log")
    middle.yaxis.set_major_formatter("{x:g}")
    middle.yaxis.set_minor_formatter("{x:g}")
    _finish(right, "added TTFT, request by request", "simulated, ms", "real, ms")
    save(figure, path)


def _finish(axis: Any, title: str, x: str, y: str) -> None:
    axis.set_title(title, fontsize=10, loc="left")
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False, fontsize=7)
    axis.spines[["top", "right"]].set_visible(False)
