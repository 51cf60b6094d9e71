"""`objectcache bench peers`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from objectcache.bench.result import BenchmarkResult
from objectcache.bench.shapes import LLAMA_31_8B
from objectcache.cli.bench.options import (
    QUICK_PAIRS,
    CheckOption,
    DataOption,
    JsonOption,
    LayersOption,
    PlotOption,
    QuickOption,
    finish,
    require,
)

_QUICK_CONTEXT, _QUICK_LAYERS = 512, 8


def command(
    json: JsonOption = None,
    plot: PlotOption = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="How our own data comes; may be repeated: the bars are for the first.", show_default="tcp"),
    ] = None,
    servers: Annotated[
        str, typer.Option(help="What the others read from, of nginx, seaweedfs and gateway.")
    ] = "nginx,seaweedfs,gateway",
    context: Annotated[int | None, typer.Option(help="Prefix length in tokens.", show_default="16384")] = None,
    layers: LayersOption = None,
    ranged_layers: Annotated[
        int, typer.Option(help="Layers that are read by ranged GETs; the rest is scaled.", min=1)
    ] = 2,
    pairs: Annotated[int | None, typer.Option(help="Rounds of measurements.", show_default="15")] = None,
    lmcache_python: Annotated[
        Path | None,
        typer.Option(help="A Python that has LMCache, to measure it too (with nginx).", show_default=False),
    ] = None,
    data: DataOption = None,
    quick: QuickOption = False,
    check: CheckOption = False,
) -> None:
    """Layerwise retrieval beside what users have today: GETs of whole chunks and of slices, and LMCache.

    All hold the same KV and are measured in turn. For 16,384 tokens that is 2 GiB for each of: segments, chunks (nginx
    and the gateway share files), SeaweedFS, LMCache's objects; and twice in memory.

    [bold]Examples[/bold]

      objectcache bench peers --json peers.json --plot peers.png --check

      objectcache bench peers --lmcache-python lmcache-venv/bin/python

      objectcache bench peers --quick --servers gateway
    """
    require(plot is not None, "matplotlib", "--plot", "plot")
    require(True, "obstore", "bench peers", "s3")
    from objectcache.bench.peers import BARS, PeersSettings, run_peers

    num_layers = layers or (_QUICK_LAYERS if quick else LLAMA_31_8B.num_layers)
    settings = PeersSettings(
        context=context or (_QUICK_CONTEXT if quick else PeersSettings.context),
        pairs=pairs or (QUICK_PAIRS if quick else PeersSettings.pairs),
        targets=tuple(target or PeersSettings.targets),
        servers=tuple(name.strip() for name in servers.split(",")),
        ranged_layers=min(ranged_layers, num_layers),
        lmcache_python=lmcache_python,
        data=data,
        quick=quick,
        shape=replace(LLAMA_31_8B, num_layers=num_layers),
    )
    console = Console()
    result = run_peers(settings, console)
    finish(console, result, BARS, json=json, plot=plot, draw=_drawing, check=check)


def _drawing() -> Callable[[BenchmarkResult, Path], None]:
    from objectcache.bench.peers.plot import draw

    return draw
