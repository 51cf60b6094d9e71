"""`objectcache simulate --mixes`: policies on drawn mixes, each on one link."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from objectcache.bench.machine import describe_machine
from objectcache.bench.progress import BenchmarkProgress
from objectcache.bench.result import BenchmarkResult
from objectcache.bench.simulate.rows import EQUAL
from objectcache.scheduling import DEFAULT_POLICY
from objectcache.simulation.evaluating import evaluate_policies
from objectcache.simulation.mixes import draw_mixes

_FIGURES = ("gain_geomean", "gain_min", "p95_ratio_pooled", "max_ratio_worst")


def run_mixes(count: int, seed: int, policies: Sequence[str], console: Console) -> BenchmarkResult:
    """A row for each policy, and the default one's in the summary. `equal` and it are among them, asked for or not."""
    names = list(dict.fromkeys((EQUAL, *policies, DEFAULT_POLICY)))
    options = {"mixes": count, "seed": seed, "policies": names}
    machine = describe_machine(Path(), ("objectcache",))
    result = BenchmarkResult("simulate --mixes", options, machine, quick=False)
    with BenchmarkProgress(console, count * len(names)) as progress:

        def one_more(policy: str, done: int) -> None:
            progress.begin(policy)
            progress.step()

        result.rows += [asdict(row) for row in evaluate_policies(draw_mixes(seed, count), names, progress=one_more)]
    ours = next(row for row in result.rows if row["policy"] == DEFAULT_POLICY)
    result.summary |= {"default_policy": DEFAULT_POLICY, **{figure: ours[figure] for figure in _FIGURES}}
    return result


def show_mixes(console: Console, result: BenchmarkResult) -> None:
    """A line for each policy, over `equal`."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(f"{result.options['mixes']} mixes, over {EQUAL}")
    for figure in ("mean gain", "least gain", "p95, pooled", "worst request"):
        table.add_column(figure, justify="right")
    for row in result.rows:
        name = f"{row['policy']} (default)" if row["policy"] == DEFAULT_POLICY else row["policy"]
        table.add_row(name, *(f"{row[figure]:.2f}" for figure in _FIGURES))
    console.print(table)
