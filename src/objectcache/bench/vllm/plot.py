"""`bench vllm` as a picture: TTFT by path, ratios, and what others lose."""

from __future__ import annotations

from pathlib import Path

from objectcache.bench.plot import draw_samples, new_figure, save
from objectcache.bench.result import BenchmarkResult
from objectcache.bench.vllm.rows import ALONE, BESIDE, TTFT


def draw(result: BenchmarkResult, path: Path) -> None:
    """Every sample of each path; beside it inter-token latencies with and without a stalled load."""
    figure = new_figure(result, 14, 6)
    ttft, stalls = figure.subplots(1, 2, width_ratios=(3, 1))
    draw_samples(ttft, [row for row in result.rows if "path" in row])
    ttft.set_title(f"{TTFT}, ms", loc="left", fontsize=10)
    draw_samples(stalls, [{**row, "name": name} for row, name in _stalls(result)])
    stalls.set_title(f"{ALONE}, ms", loc="left", fontsize=10)
    save(figure, path)


def _stalls(result: BenchmarkResult) -> list[tuple[dict[str, object], str]]:
    return [(result.row(ALONE), "alone"), (result.row(BESIDE), "beside a load\nthat hangs")]
