"""A workload under several policies, from settings to a result."""

from __future__ import annotations

import time
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from objectcache.bench.machine import describe_machine
from objectcache.bench.progress import BenchmarkProgress
from objectcache.bench.result import BenchmarkResult, Row
from objectcache.bench.simulate.rows import ADDED, PERCENTILES, policy_rows, summary
from objectcache.bench.simulate.settings import SimulateSettings
from objectcache.simulation.offered import offered_load
from objectcache.simulation.parallel import simulate_all

PACKAGES = ("objectcache", "simpy")


def run_workload(settings: SimulateSettings, console: Console) -> BenchmarkResult:
    """Rows and summary are the same for the same settings; `took_s` is beside the machine. Raises ConfigError."""
    arrivals = settings.arrivals()
    machine = describe_machine(Path(), PACKAGES)
    began_s = time.perf_counter()
    with BenchmarkProgress(console, len(arrivals) * len(settings.policies)) as progress:
        progress.begin(f"{len(arrivals):,} requests, {len(settings.policies)} policies")
        outcomes = simulate_all(
            settings.fabric, arrivals, settings.policies, jobs=settings.jobs, progress=progress.step
        )
    machine["took_s"] = round(time.perf_counter() - began_s, 2)
    rows = policy_rows(outcomes)
    result = BenchmarkResult("simulate", settings.to_dict(), machine, quick=False, rows=rows)
    some = outcomes[settings.policies[0]]
    result.summary |= summary(rows) | {
        "requests": len(arrivals),
        "span_s": arrivals[-1].arrival_s,
        "sent_bytes": sum(outcome.payload_bytes for outcome in some),
        "offered_load": offered_load(settings.fabric, arrivals),
    }
    return result


def show_policies(console: Console, result: BenchmarkResult) -> None:
    """A line for each policy and figure."""
    figures = result.summary
    load = ", ".join(f"{name} {share:.0%}" for name, share in figures["offered_load"].items())
    console.print(
        f"[bold]simulate[/]: {figures['requests']:,} requests in {figures['span_s']:.1f} s, "
        f"{figures['sent_bytes'] / 1e9:,.0f} GB; offered load: {load}; took {result.machine['took_s']:.1f} s",
        highlight=False,
    )
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("ms", no_wrap=True)
    table.add_column("policy", no_wrap=True)
    for column in ("mean", *(f"p{percent}" for percent in PERCENTILES), "max", "gain"):
        table.add_column(column, justify="right")
    for row in sorted(result.rows, key=lambda row: row["figure"] == ADDED):
        table.add_row(row["figure"], row["policy"], *_cells(row), _gain(result, row))
    console.print(table)


def _cells(row: Row) -> list[str]:
    values = [row[name] for name in ("mean", *(f"p{percent}" for percent in PERCENTILES), "max")]
    return [f"{value:,.1f}" if value < 1000 else f"{value:,.0f}" for value in values]


def _gain(result: BenchmarkResult, row: Row) -> str:
    gains = result.summary.get("gain")
    return f"{gains[row['policy']]:.2f}" if gains and row["figure"] == ADDED else ""
