"""`objectcache bench`: a command per benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from objectcache.bench.bars import Bar, judge
from objectcache.bench.report import show, show_verdicts
from objectcache.bench.result import MIN_PAIRS, BenchmarkResult
from objectcache.bench.retrieve import BARS as RETRIEVE_BARS
from objectcache.bench.retrieve import RetrieveSettings, run_retrieve
from objectcache.client import ClientOptions
from objectcache.errors import ConfigError

_QUICK_PAIRS = 3
_QUICK_REQUESTS = 50
_QUICK_CONTEXT, _QUICK_LAYERS = 512, 8

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
    _require(plot is not None, "matplotlib", "--plot", "plot")
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
    _judge(console, result, RETRIEVE_BARS, check)


@app.command("stores")
def stores(
    json: JsonOption = None,
    plot: PlotOption = None,
    url: Annotated[
        list[str] | None,
        typer.Option(help="A store that runs: s3://bucket/prefix?endpoint=…, or NAME= and that; may be repeated."),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            help="Services to start meanwhile, in a source checkout that has them installed.",
            show_default="rgw,seaweedfs, unless there is a --url",
        ),
    ] = None,
    context: Annotated[int | None, typer.Option(help="Prefix length in tokens.", show_default="4096")] = None,
    layers: Annotated[int | None, typer.Option(help="Layers of the model.", min=1, show_default="32")] = None,
    pairs: Annotated[
        int | None, typer.Option(help="Pairs of measurements per ratio.", show_default=str(MIN_PAIRS))
    ] = None,
    delay_ms: Annotated[float, typer.Option(help="Latency added to requests in the far part.", min=0.0)] = 30.0,
    segment_chunks: Annotated[
        int, typer.Option(help="Chunks in a stored segment.", min=1)
    ] = RetrieveSettings().segment_chunks,
    data: Annotated[
        Path | None,
        typer.Option(help="Where gateways keep their read caches.", show_default="the system's temporary directory"),
    ] = None,
    quick: QuickOption = False,
    check: CheckOption = False,
) -> None:
    """Retrieval from S3 stores, through a gateway and directly, beside the GETs of the best client there is.

    Credentials are found where every S3 client looks: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a role, …
    About three times the KV (512 MiB for 4096 tokens) is held in memory for each store, and twice on the store, below
    a prefix of its own that is deleted at the end. The far part (a proxy delays each request to the store) needs an
    endpoint with http://.

    [bold]Examples[/bold]

      objectcache bench stores --start rgw,seaweedfs --json stores.json --plot stores.png

      objectcache bench stores --url 's3://kv-bench?endpoint=http://10.0.0.7:8000' --url aws=s3://my-bucket/bench

      objectcache bench stores --start seaweedfs --quick
    """
    _require(plot is not None, "matplotlib", "--plot", "plot")
    _require(True, "obstore", "bench stores", "s3")
    from objectcache.bench.stores import BARS, run_stores
    from objectcache.bench.stores.services import stores_of
    from objectcache.bench.stores.settings import StoresSettings

    defaults = StoresSettings
    started = start.split(",") if start else [] if url else ["rgw", "seaweedfs"]
    with stores_of(url or [], started) as found:
        settings = StoresSettings(
            stores=found,
            context=context or (_QUICK_CONTEXT if quick else defaults.context),
            pairs=pairs or (_QUICK_PAIRS if quick else defaults.pairs),
            delay_s=delay_ms / 1e3,
            segment_chunks=segment_chunks,
            data=data,
            quick=quick,
            shape=replace(defaults.shape, num_layers=layers or (_QUICK_LAYERS if quick else defaults.shape.num_layers)),
        )
        console = Console()
        result = run_stores(settings, console)
    show(console, result)
    if json is not None:
        result.write(json)
    if plot is not None:
        from objectcache.bench.stores.plot import draw

        draw(result, plot)
    _judge(console, result, BARS, check)


def _judge(console: Console, result: BenchmarkResult, bars: Sequence[Bar], check: bool) -> None:
    """What was not measured is not met."""
    measured = [bar for bar in bars if bar.key in result.summary]
    verdicts = judge(measured, result.summary)
    show_verdicts(console, verdicts)
    if check and (len(measured) < len(bars) or not all(verdict.met for verdict in verdicts)):
        raise typer.Exit(1)


def _contexts(text: str | None) -> tuple[int, ...]:
    if text is None:
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--contexts takes token counts like 4096,16384, got {text!r}") from error


def _require(needed: bool, package: str, what: str, extra: str) -> None:
    """Before anything is measured. Raises ConfigError where `what` needs a package that is not installed."""
    if needed and find_spec(package) is None:
        raise ConfigError(f"{what} needs {package}: pip install 'objectcache[{extra}]'")
