"""`objectcache bench merge`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from objectcache.bench.merge import BARS, MergeSettings, run_merge
from objectcache.bench.result import BenchmarkResult
from objectcache.cli.bench.options import (
    QUICK_PAIRS,
    CheckOption,
    DataOption,
    JsonOption,
    LayersOption,
    PairsOption,
    PlotOption,
    QuickOption,
    finish,
    require,
)

_QUICK_TURNS, _QUICK_LAYERS = 16, 8


def command(
    json: JsonOption = None,
    plot: PlotOption = None,
    turns: Annotated[int | None, typer.Option(help="Turns of the conversation.", show_default="64")] = None,
    turn_chunks: Annotated[int, typer.Option(help="Chunks that each turn stores.")] = MergeSettings.turn_chunks,
    layers: LayersOption = None,
    latency_ms: Annotated[float, typer.Option(help="How far the far store is away.", min=0.0)] = 30.0,
    pairs: PairsOption = None,
    data: DataOption = None,
    quick: QuickOption = False,
    check: CheckOption = False,
) -> None:
    """A conversation in one small segment per turn, the same after merging, and the same stored at once.

    Retrieved through a gateway, in-process from the same files, and in-process from a store that is far away. About
    four times the KV (512 MiB for 64 turns of 4 chunks) is on the disk meanwhile, three times in memory.

    [bold]Examples[/bold]

      objectcache bench merge --pairs 15 --json merging.json --plot merging.png

      objectcache bench merge --turns 256 --turn-chunks 1 --latency-ms 10
    """
    require(plot is not None, "matplotlib", "--plot", "plot")
    shape = MergeSettings.shape
    settings = MergeSettings(
        turns=turns or (_QUICK_TURNS if quick else MergeSettings.turns),
        turn_chunks=turn_chunks,
        pairs=pairs or (QUICK_PAIRS if quick else MergeSettings.pairs),
        latency_s=latency_ms / 1e3,
        data=data,
        quick=quick,
        shape=replace(shape, num_layers=layers or (_QUICK_LAYERS if quick else shape.num_layers)),
    )
    console = Console()
    result = run_merge(settings, console)
    finish(console, result, BARS, json=json, plot=plot, draw=_drawing, check=check)


def _drawing() -> Callable[[BenchmarkResult, Path], None]:
    from objectcache.bench.merge.plot import draw

    return draw
