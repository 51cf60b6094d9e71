"""`objectcache simulate --mixes`: policies on drawn mixes, each on one link."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from objectcache.bench.contention.rows import EQUAL, SIMULATED, Measured, row, summary
from objectcache.bench.machine import describe_machine
from objectcache.bench.progress import BenchmarkProgress
from objectcache.bench.result import BenchmarkResult
from objectcache.simulation.mixed import mix_added_s
from objectcache.simulation.mixes import draw_mixes

_FIGURES = ("gain_geomean", "gain_min", "p95_ratio", "max_ratio")


def run_mixes(
    count: int, seed: int, policies: tuple[str, ...], default_policy: str, console: Console
) -> BenchmarkResult:
    """`equal` and the default policy are among what is simulated, asked for or not. Raises ConfigError."""
    policies = tuple(dict.fromkeys((EQUAL, *policies, default_policy)))
    options = {"mixes": count, "seed": seed, "policies": list(policies), "default_policy": default_policy}
    result = BenchmarkResult(
        "simulate --mixes", options, describe_machine(Path(), ("objectcache", "simpy")), quick=False
    )
    measured = []
    with BenchmarkProgress(console, count * len(policies)) as progress:
        for number, mix in enumerate(draw_mixes(seed, count)):
            progress.begin(f"mix {number}")
            for policy in policies:
                measured.append(Measured(number, mix, policy, SIMULATED, [mix_added_s(mix, policy)]))
                progress.step()
    result.rows += [row(one) for one in measured]
    result.summary |= summary(measured, default_policy)
    return result


def show_mixes(console: Console, result: BenchmarkResult) -> None:
    """A line for each policy, over `equal`."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(f"{result.summary['mixes']} mixes, over {EQUAL}")
    for figure in ("mean gain", "least gain", "p95, pooled", "worst request"):
        table.add_column(figure, justify="right")
    for policy in result.options["policies"]:
        figures = [result.summary[f"{figure}_by_policy"][policy] for figure in _FIGURES]
        name = f"{policy} (default)" if policy == result.options["default_policy"] else policy
        table.add_row(name, *(f"{figure:.2f}" for figure in figures))
    console.print(table)
