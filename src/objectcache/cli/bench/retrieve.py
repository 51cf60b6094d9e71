"""`objectcache bench retrieve`."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from objectcache.bench.result import BenchmarkResult
from objectcache.bench.retrieve import RetrieveSettings, bars_of, run_retrieve
from objectcache.bench.retrieve.settings import FULL_PAIRS
from objectcache.bench.shapes import SHAPES, ModelShape
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
from objectcache.client import ClientOptions
from objectcache.errors import ConfigError
from objectcache.transports.nixl import check_installed

_QUICK_REQUESTS = 50


class Target(StrEnum):
    SHM = "shm"
    TCP = "tcp"
    HTTP = "http"
    NIXL = "nixl"


class Receiver(StrEnum):
    THREADS = "threads"
    PROCESS = "process"


def command(
    json: JsonOption = None,
    plot: PlotOption = None,
    target: Annotated[
        Target,
        typer.Option(
            help="Shared memory, striped TCP connections, the HTTP response, or memory that is registered with NIXL: "
            "then beside what NIXL itself does, over UCX's shared memory and TCP."
        ),
    ] = Target.TCP,
    receiver: Annotated[
        Receiver, typer.Option(help="Receive in threads, or in a process on shared memory.")
    ] = Receiver.THREADS,
    streams: Annotated[int, typer.Option(help="Striped connections.", min=1)] = ClientOptions().streams,
    shapes: Annotated[str | None, typer.Option(help="Shapes of KV.", show_default=",".join(SHAPES))] = None,
    contexts: Annotated[
        str | None, typer.Option(help="Prefix lengths in tokens.", show_default="4096,16384,65536")
    ] = None,
    pairs: Annotated[
        int | None, typer.Option("--pairs", help="Pairs of measurements per ratio.", show_default=str(FULL_PAIRS))
    ] = None,
    segment_chunks: Annotated[
        int, typer.Option(help="Chunks in a stored segment.", min=1)
    ] = RetrieveSettings().segment_chunks,
    data: DataOption = None,
    verify: Annotated[
        str, typer.Option(help="Levels of checking digests on arrival that are measured: all, sampled, off.")
    ] = ",".join(RetrieveSettings().verify),
    quick: QuickOption = False,
    check: CheckOption = False,
) -> None:
    """Layerwise retrieval through a gateway, beside the fastest loop of sendfile and recv that this machine can run.

    [bold]Examples[/bold]

      objectcache bench retrieve --json retrieve.json --plot retrieve.png

      objectcache bench retrieve --target nixl --check

      objectcache bench retrieve --shapes llama-8b --contexts 16384 --quick --check
    """
    require(plot is not None, "matplotlib", "--plot", "plot")
    if target is Target.NIXL:
        check_installed()
    defaults = RetrieveSettings()
    settings = RetrieveSettings(
        shapes=_shapes(shapes) or (defaults.shapes[:1] if quick else defaults.shapes),
        contexts=_contexts(contexts) or (defaults.contexts[:1] if quick else defaults.contexts),
        pairs=pairs or (QUICK_PAIRS if quick else defaults.pairs),
        target=target.value,
        receiver=receiver.value,
        streams=streams,
        verify=tuple(verify.split(",")),
        segment_chunks=segment_chunks,
        data=data,
        # Both fabrics hold twice as much in memory as the others do.
        most_bytes=defaults.most_bytes // 2 if target is Target.NIXL else defaults.most_bytes,
        quick=quick,
        first_byte_requests=_QUICK_REQUESTS if quick else defaults.first_byte_requests,
    )
    console = Console()
    result = run_retrieve(settings, console)
    finish(console, result, bars_of(settings), json=json, plot=plot, draw=_drawing, check=check)


def _drawing() -> Callable[[BenchmarkResult, Path], None]:
    from objectcache.bench.retrieve.plot import draw

    return draw


def _shapes(text: str | None) -> tuple[ModelShape, ...]:
    if text is None:
        return ()
    try:
        return tuple(SHAPES[key] for key in text.split(","))
    except KeyError as error:
        raise ConfigError(f"--shapes takes some of {', '.join(SHAPES)}, got {text!r}") from error


def _contexts(text: str | None) -> tuple[int, ...]:
    if text is None:
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--contexts takes token counts like 4096,16384, got {text!r}") from error
