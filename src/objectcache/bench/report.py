"""A result in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from objectcache.bench.bars import Verdict
from objectcache.bench.result import BenchmarkResult


def show(console: Console, result: BenchmarkResult) -> None:
    """A line per row: the median, the range, and from how many samples; or why it was not measured."""
    machine = result.machine
    console.print(
        f"[bold]{result.benchmark}[/]: {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB, {machine['kernel']}, {machine['filesystem']}; "
        f"load average {machine['load_average']:.2f} before",
        highlight=False,
    )
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("what")
    table.add_column("median", justify="right")
    table.add_column("unit")
    table.add_column("range", justify="right")
    table.add_column("of", justify="right")
    for row in result.rows:
        if "not_run" in row:
            table.add_row(row["name"], "not run", "", row["not_run"], "0")
            continue
        spread = f"{row['min']:.3g} … {row['max']:.3g}"
        table.add_row(row["name"], f"{row['median']:.3g}", row["unit"], spread, str(len(row["samples"])))
    console.print(table)
    if result.quick:
        console.print("A quick run: it shows that the benchmark works, not how fast anything is.", style="yellow")


def show_verdicts(console: Console, verdicts: Sequence[Verdict]) -> None:
    for verdict in verdicts:
        word, colour = ("met", "green") if verdict.met else ("missed", "red")
        of = f", {verdict.of}" if verdict.of else ""
        console.print(Text(f"{word:<7}", style=colour) + Text(f"{verdict.bar.rule}{of}: {verdict.value:.4g}", style=""))
