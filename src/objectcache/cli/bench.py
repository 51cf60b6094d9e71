"""`objectcache bench`: a command per benchmark."""

from __future__ import annotations

from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from objectcache.bench.bars import judge
from objectcache.bench.report import show, show_verdicts
from objectcache.bench.result import MIN_PAIRS
from objectcache.bench.retrieve import BARS, RetrieveSettings, run_retrieve
from objectcache.client import ClientOptions
from objectcache.errors import ConfigError

_QUICK_PAIRS = 3
_QUICK_REQUESTS = 50

app = typer.Typer(help="Measure this machine. Every benchmark writes raw samples as JSON.", no_args_is_help=True)

JsonOption = Annotated[Path | None, typer.Option("--json", help="Write all samples there.", show_default=False)]
PlotOption = Annotated[
    Path | None, typer.Option("--plot", help="Draw a PNG; needs matplotlib (the extra 'plot').", show_default=False)
]
QuickOption = Annotated[bool, typer.Option("--quick", help="Few measurements, marked as such: does it work?")]
CheckOption = Annotated[bool, typer.Option("--check", help="Exit with 1 unless every bar is met.")]


class Target(StrEnum):
    TCP = "tcp"
    HTTP = "http"


class Receiver(StrEnum):
    THREADS = "threads"
    PROCESS = "process"


def add_to(main: typer.Typer) -> None:
    main.add_typer(app, name="bench")


@app.callback()
def _benchmarks() -> None:
    """Keeps `retrieve` a command of its own while it is the only one."""


@app.command("retrieve")
def retrieve(
    json: JsonOption = None,
    plot: PlotOption = None,
    target: Annotated[Target, typer.Option(help="Striped TCP connections, or the HTTP response.")] = Target.TCP,
    receiver: Annotated[
        Receiver, typer.Option(help="Receive in threads, or in a process on shared memory.")
    ] = Receiver.THREADS,
    streams: Annotated[int, typer.Option(help="Striped connections.", min=1)] = ClientOptions().streams,
    contexts: Annotated[
        str | None, typer.Option(help="Prefix lengths in tokens, e.g. 4096,16384.", show_default="4096,16384")
    ] = None,
    pairs: Annotated[
        int | None, typer.Option(help="Pairs of measurements per ratio.", show_default=str(MIN_PAIRS))
    ] = None,
    segment_chunks: Annotated[
        int, typer.Option(help="Chunks in a stored segment.", min=1)
    ] = RetrieveSettings().segment_chunks,
    data: Annotated[
        Path | None, typer.Option(help="Where to store meanwhile.", show_default="the system's temporary directory")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Check digests on arrival.")] = True,
    quick: QuickOption = False,
    check: CheckOption = False,
) -> None:
    """Layerwise retrieval through a gateway, beside the fastest loop of sendfile and recv that this machine can run.

    [bold]Examples[/bold]

      objectcache bench retrieve --json retrieve.json --plot retrieve.png

      objectcache bench retrieve --quick --check
    """
    _require_matplotlib(plot)
    defaults = RetrieveSettings()
    settings = RetrieveSettings(
        contexts=_contexts(contexts) or (defaults.contexts[:1] if quick else defaults.contexts),
        pairs=pairs or (_QUICK_PAIRS if quick else defaults.pairs),
        target=target.value,
        receiver=receiver.value,
        streams=streams,
        verify=verify,
        segment_chunks=segment_chunks,
        data=data,
        quick=quick,
        first_byte_requests=_QUICK_REQUESTS if quick else defaults.first_byte_requests,
    )
    console = Console()
    result = run_retrieve(settings, console)
    show(console, result)
    if json is not None:
        result.write(json)
    if plot is not None:
        from objectcache.bench.retrieve.plot import draw

        draw(result, plot)
    verdicts = judge(BARS, result.summary)
    show_verdicts(console, verdicts)
    if check and not all(verdict.met for verdict in verdicts):
        raise typer.Exit(1)


def _contexts(text: str | None) -> tuple[int, ...]:
    if text is None:
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--contexts takes token counts like 4096,16384, got {text!r}") from error


def _require_matplotlib(plot: Path | None) -> None:
    """Before anything is measured. Raises ConfigError."""
    if plot is not None and find_spec("matplotlib") is None:
        raise ConfigError("--plot needs matplotlib: pip install 'objectcache[plot]'")
