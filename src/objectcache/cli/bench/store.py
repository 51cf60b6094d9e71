"""`objectcache bench store`."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from objectcache.bench.result import BenchmarkResult
from objectcache.bench.store import BARS, StoreSettings, run_store
from objectcache.cli.bench.options import (
    QUICK_PAIRS,
    CheckOption,
    DataOption,
    JsonOption,
    PlotOption,
    QuickOption,
    finish,
    require,
)

_DEFAULTS = StoreSettings()
_QUICK_CONTEXT = 1024


class Through(StrEnum):
    DIRECT = "direct"
    GATEWAY = "gateway"


class WrittenBy(StrEnum):
    PROCESS = "process"
    THREADS = "threads"


def command(
    json: JsonOption = None,
    plot: PlotOption = None,
    through: Annotated[Through, typer.Option(help="Straight into a file store, or through a gateway.")] = (
        Through.DIRECT
    ),
    writer: Annotated[WrittenBy, typer.Option(help="Digests and uploads: a process of its own, or threads.")] = (
        WrittenBy.PROCESS
    ),
    rate: Annotated[float, typer.Option(help="What the prefill produces, over what the raw loop sustains.")] = (
        _DEFAULTS.rate
    ),
    context: Annotated[
        int | None, typer.Option(help="Tokens of one prefill.", show_default=str(_DEFAULTS.context))
    ] = None,
    pairs: Annotated[
        int | None, typer.Option(help="Pairs of measurements per ratio.", show_default=str(_DEFAULTS.pairs))
    ] = None,
    staging_mib: Annotated[int, typer.Option(help="Host memory of layers on their way, in MiB.", min=1)] = (
        _DEFAULTS.staging_bytes >> 20
    ),
    data: DataOption = None,
    quick: QuickOption = False,
    check: CheckOption = False,
) -> None:
    """A synthetic prefill that keeps a core busy, alone and while it is stored: at the raw loop's rate and twice it.

    [bold]Examples[/bold]

      objectcache bench store --json store.json --plot store.png

      objectcache bench store --through gateway --rate 0.7 --check
    """
    require(plot is not None, "matplotlib", "--plot", "plot")
    settings = StoreSettings(
        context=context or (_QUICK_CONTEXT if quick else _DEFAULTS.context),
        pairs=pairs or (QUICK_PAIRS if quick else _DEFAULTS.pairs),
        through=through.value,
        writer=writer.value,
        rate=rate,
        staging_bytes=staging_mib << 20,
        data=data,
        quick=quick,
    )
    console = Console()
    result = run_store(settings, console)
    finish(console, result, BARS, json=json, plot=plot, draw=_drawing, check=check)


def _drawing() -> Callable[[BenchmarkResult, Path], None]:
    from objectcache.bench.store.plot import draw

    return draw
