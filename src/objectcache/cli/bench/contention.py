"""`objectcache bench contention`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from objectcache.bench.contention import BARS, ContentionSettings, run_contention
from objectcache.bench.result import BenchmarkResult
from objectcache.cli.bench.options import CheckOption, JsonOption, PlotOption, QuickOption, finish, require

_DEFAULTS = ContentionSettings()
_QUICK = ContentionSettings(mixes=8, real_mixes=1, wrong_mixes=1, repeats=1, quick=True)


class Target(StrEnum):
    TCP = "tcp"
    SHM = "shm"
    HTTP = "http"


def command(
    json: JsonOption = None,
    plot: PlotOption = None,
    mixes: Annotated[int | None, typer.Option(help="Mixes in all.", show_default=str(_DEFAULTS.mixes))] = None,
    real_mixes: Annotated[
        int | None, typer.Option(help="Of them through a real gateway.", show_default=str(_DEFAULTS.real_mixes))
    ] = None,
    repeats: Annotated[
        int | None, typer.Option(help="How often each of those.", show_default=str(_DEFAULTS.repeats))
    ] = None,
    scale: Annotated[int, typer.Option(help="What bytes and caps are divided by.", min=1)] = _DEFAULTS.scale,
    target: Annotated[Target, typer.Option(help="Where clients have KV delivered.")] = Target.TCP,
    data: Annotated[
        Path | None, typer.Option(help="Where to store meanwhile.", show_default="the system's temporary directory")
    ] = None,
    quick: QuickOption = False,
    check: CheckOption = False,
) -> None:
    """Requests that share a capped link, under each policy: what they wait beyond the same with their KV local.

    A process for each request, which "computes" by waiting its windows; bytes and caps are scaled down so that this
    machine is not the limit. Mixes beyond those that are real are simulated.

    [bold]Examples[/bold]

      objectcache bench contention --json contention.json --plot contention.png --check

      objectcache bench contention --quick
    """
    require(plot is not None, "matplotlib", "--plot", "plot")
    usual = _QUICK if quick else _DEFAULTS
    settings = replace(
        usual,
        mixes=mixes or usual.mixes,
        real_mixes=usual.real_mixes if real_mixes is None else real_mixes,
        repeats=repeats or usual.repeats,
        scale=scale,
        target=target.value,
        data=data,
    )
    console = Console()
    result = run_contention(settings, console)
    finish(console, result, BARS, json=json, plot=plot, draw=_drawing, check=check)


def _drawing() -> Callable[[BenchmarkResult, Path], None]:
    from objectcache.bench.contention.plot import draw

    return draw
