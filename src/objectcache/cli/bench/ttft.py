"""`objectcache bench ttft`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from objectcache.bench.result import BenchmarkResult
from objectcache.cli.bench.options import (
    CheckOption,
    GatewayOption,
    JsonOption,
    PlotOption,
    QuickOption,
    finish,
    gateway_settings,
    require,
)
from objectcache.errors import ConfigError

_QUICK_CONTEXTS = (256, 1024)
_MUCH_PCT = 2.0
"""Of stolen time."""


class Part(StrEnum):
    CORE = "core"
    REST = "rest"


class Device(StrEnum):
    CUDA = "cuda"
    CPU = "cpu"


class Receiver(StrEnum):
    THREADS = "threads"
    PROCESS = "process"


def command(
    json: JsonOption = None,
    plot: PlotOption = None,
    part: Annotated[
        Part, typer.Option(help="The core grid, or what differs from it in one thing: hits, caps, targets, stores.")
    ] = Part.CORE,
    cells: Annotated[
        str | None, typer.Option(help="Only these cells of the part, as CONTEXT:HIT,…", show_default="all")
    ] = None,
    runs: Annotated[int | None, typer.Option(help="Runs of each path in each cell.", show_default="9, rest 3")] = None,
    merge: Annotated[
        list[Path] | None,
        typer.Option(help="Measure nothing: put results of parts together. Once for each.", show_default=False),
    ] = None,
    device: Annotated[Device, typer.Option(help="'cpu' runs a tiny model, to see that it works.")] = Device.CUDA,
    receiver: Annotated[Receiver, typer.Option(help="Receive in threads, or in a process.")] = Receiver.THREADS,
    receiver_processes: Annotated[
        int, typer.Option(help="How many receive, with --receiver process.", show_default="one for every two streams")
    ] = 0,
    streams: Annotated[int, typer.Option(help="Striped connections.", min=1)] = 4,
    paths: Annotated[
        str | None, typer.Option(help="Only these paths beside 'resident' and 'local DRAM'.", show_default="all")
    ] = None,
    decodes: Annotated[
        int, typer.Option(help="Also measure beside so many other requests that are decoded.", min=0)
    ] = 0,
    decode_context: Annotated[int, typer.Option(help="Tokens of each of those.", min=1)] = 1024,
    first_layers: Annotated[int, typer.Option(help="Layers that the local tier keeps.", min=1)] = 1,
    memory: Annotated[
        Path | None, typer.Option(help="Directory of the store in memory.", show_default="/dev/shm")
    ] = None,
    disk: Annotated[
        Path | None, typer.Option(help="Directory of the store on disk.", show_default="the system's temporary one")
    ] = None,
    gateway: GatewayOption = None,
    gateway_cores: Annotated[
        int, typer.Option(help="Cores that are the gateway's alone, as if it were on another host.", min=0)
    ] = 0,
    quick: QuickOption = False,
    check: CheckOption = False,
) -> None:
    """Time to first token of a Llama-shaped model on a GPU: prefix resident, in local DRAM, and through a gateway.

    All paths are measured in turn, run by run. The gateway's bandwidth is capped at 100 Gbps unless the cell says
    otherwise; it is on the same host, so no real network is in these figures.

    [bold]Examples[/bold]

      objectcache bench ttft --cells 4096:0.5,4096:0.875 --json part-1.json

      objectcache bench ttft --merge part-1.json --merge part-2.json --json ttft.json --plot ttft.png

      objectcache bench ttft --device cpu --quick
    """
    require(plot is not None, "matplotlib", "--plot", "plot")
    console = Console()
    if merge:
        from objectcache.bench.ttft.run import merge_results

        result = merge_results([BenchmarkResult.read(path) for path in merge])
    else:
        require(True, "torch", "bench ttft", "device")
        from objectcache.bench.ttft import LLAMA_8B, TINY, TtftSettings, core_cells, rest_cells, run_ttft

        small = quick or device is Device.CPU
        made = core_cells if part is Part.CORE else rest_cells
        grid = made(_QUICK_CONTEXTS) if small else made()
        if cells is not None:
            wanted = _cells(cells)
            grid = tuple(cell for cell in grid if (cell.context, cell.hit) in wanted)
            if not grid:
                raise ConfigError(f"--cells {cells!r} names no cell of the {part.value} part")
        if small:
            grid = tuple(replace(cell, gbps=min(cell.gbps, 1.0)) for cell in grid)
        settings = TtftSettings(
            architecture=TINY if device is Device.CPU else LLAMA_8B,
            cells=grid,
            runs=runs or (2 if quick else 9 if part is Part.CORE else 3),
            device=device.value,
            receiver=receiver.value,
            receiver_processes=receiver_processes,
            streams=streams,
            paths=tuple(paths.split(",")) if paths else (),
            decodes=decodes,
            decode_context=decode_context,
            first_layers=first_layers,
            memory=memory,
            disk=disk,
            gateway=gateway_settings(gateway),
            gateway_cores=gateway_cores,
            quick=small,
        )
        result = run_ttft(settings, console)
    from objectcache.bench.ttft.rows import BARS

    stolen_pct = result.summary.get("stolen_pct_max", 0.0)
    if stolen_pct > _MUCH_PCT:
        console.print(
            f"The host gave {stolen_pct:.1f} % of the processor time that was wanted here to others: another time, or "
            "on another host, more is reached."
        )
    finish(console, result, BARS, json=json, plot=plot, draw=_drawing, check=check)


def _drawing() -> Callable[[BenchmarkResult, Path], None]:
    from objectcache.bench.ttft.plot import draw

    return draw


def _cells(text: str) -> set[tuple[int, float]]:
    try:
        return {(int(context), float(hit)) for context, _, hit in (part.partition(":") for part in text.split(","))}
    except ValueError as error:
        raise ConfigError(f"--cells takes CONTEXT:HIT,… like 4096:0.5,65536:0.875, got {text!r}") from error
