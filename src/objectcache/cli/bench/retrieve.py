"""`objectcache bench retrieve`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from objectcache.bench.result import MIN_PAIRS, BenchmarkResult
from objectcache.bench.retrieve import RetrieveSettings, bars_of, run_retrieve
from objectcache.bench.retrieve.settings import FULL_PAIRS
from objectcache.bench.shapes import LLAMA_31_8B, SHAPES, ModelShape
from objectcache.cli.bench.options import (
    QUICK_PAIRS,
    CheckOption,
    DataOption,
    GatewayOption,
    JsonOption,
    PlotOption,
    QuickOption,
    finish,
    gateway_settings,
    require,
)
from objectcache.client import ClientOptions
from objectcache.errors import ConfigError
from objectcache.transports.nixl import check_installed

_QUICK_REQUESTS = 50
_COMBINED_LAYERS = 16
"""Each combination holds all of them in memory."""


class Target(StrEnum):
    SHM = "shm"
    TCP = "tcp"
    HTTP = "http"
    NIXL = "nixl"
    DIRECT = "direct"


class Receiver(StrEnum):
    THREADS = "threads"
    PROCESS = "process"


def command(
    json: JsonOption = None,
    plot: PlotOption = None,
    target: Annotated[
        list[Target] | None,
        typer.Option(
            help="Shared memory, striped TCP connections, the HTTP response, or memory that is registered with NIXL: "
            "then beside what NIXL itself does, over UCX's shared memory and TCP."
            "With --store: may be repeated.",
            show_default="tcp; with --store all that there are",
        ),
    ] = None,
    store: Annotated[
        list[str] | None,
        typer.Option(
            help="Combine stores and targets instead: files, [NAME=]URL, or rgw to start Ceph, which is read by S3 and "
            "by RADOS; may be repeated."
        ),
    ] = None,
    receiver: Annotated[
        Receiver, typer.Option(help="Receive in threads, or in a process on shared memory.")
    ] = Receiver.THREADS,
    streams: Annotated[int, typer.Option(help="Striped connections.", min=1)] = ClientOptions().streams,
    shapes: Annotated[str | None, typer.Option(help="Shapes of KV.", show_default=",".join(SHAPES))] = None,
    contexts: Annotated[
        str | None, typer.Option(help="Prefix lengths in tokens.", show_default="4096,16384,65536")
    ] = None,
    layers: Annotated[
        int | None, typer.Option(help="Layers of the shape, with --store.", min=1, show_default="16")
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
    gateway: GatewayOption = None,
    quick: QuickOption = False,
    check: CheckOption = False,
) -> None:
    """Layerwise retrieval through a gateway, beside the fastest loop of sendfile and recv that this machine can run.

    [bold]Examples[/bold]

      objectcache bench retrieve --json retrieve.json --plot retrieve.png

      objectcache bench retrieve --target nixl --check

      objectcache bench retrieve --store files --store rgw --json transports.json

      objectcache bench retrieve --shapes llama-8b --contexts 16384 --quick --check
    """
    require(plot is not None, "matplotlib", "--plot", "plot")
    if Target.NIXL in (target or []):
        check_installed()
    if store:
        combined = _Combined(store, target or [], shapes, contexts, pairs, layers, streams, segment_chunks, data, quick)
        combined.run(json=json, plot=plot, check=check)
        return
    if layers is not None:
        raise ConfigError("--layers is for --store; without it, a shape has as many layers as fit")
    if len(target or []) > 1 or Target.DIRECT in (target or []):
        raise ConfigError("several targets, and direct, are for --store")
    over = (target or [Target.TCP])[0]
    defaults = RetrieveSettings()
    settings = RetrieveSettings(
        shapes=_shapes(shapes) or (defaults.shapes[:1] if quick else defaults.shapes),
        contexts=_contexts(contexts) or (defaults.contexts[:1] if quick else defaults.contexts),
        pairs=pairs or (QUICK_PAIRS if quick else defaults.pairs),
        target=over.value,
        receiver=receiver.value,
        streams=streams,
        verify=tuple(verify.split(",")),
        segment_chunks=segment_chunks,
        data=data,
        gateway=gateway_settings(gateway),
        # Both fabrics hold twice as much in memory as the others do.
        most_bytes=defaults.most_bytes // 2 if over is Target.NIXL else defaults.most_bytes,
        quick=quick,
        first_byte_requests=_QUICK_REQUESTS if quick else defaults.first_byte_requests,
    )
    console = Console()
    result = run_retrieve(settings, console)
    finish(console, result, bars_of(settings), json=json, plot=plot, draw=_drawing, check=check)


@dataclass(frozen=True)
class _Combined:
    """`--store`: another benchmark, with options of the same names."""

    stores: list[str]
    targets: list[Target]
    shapes: str | None
    contexts: str | None
    pairs: int | None
    layers: int | None
    streams: int
    segment_chunks: int
    data: Path | None
    quick: bool

    def run(self, *, json: Path | None, plot: Path | None, check: bool) -> None:
        """Raises ConfigError, ObjectCacheError."""
        if check:
            raise ConfigError("--check has no bars for stores and targets that are combined")
        require(True, "obstore", "--store", "s3")
        from objectcache.bench.combined import CombinedSettings, run_combined
        from objectcache.bench.combined.settings import NamedStore, expanded, targets_here
        from objectcache.bench.stores.services import KNOWN, stores_of

        shapes, contexts = _shapes(self.shapes) or (LLAMA_31_8B,), _contexts(self.contexts) or (4096,)
        if len(shapes) > 1 or len(contexts) > 1:
            raise ConfigError("--store takes one shape and one context")
        shape = replace(shapes[0], num_layers=self.layers or _COMBINED_LAYERS)
        started = [name for name in self.stores if name in KNOWN]
        given = [NamedStore.parse(text) for text in self.stores if text not in KNOWN]
        with stores_of([], started) as services:
            for service in services:
                given.append(NamedStore(service.name, service.options.url))
                given += [NamedStore("rados", service.rados)] if service.rados else []
            settings = CombinedSettings(
                stores=expanded(given),
                targets=targets_here([target.value for target in self.targets]),
                shape=shape,
                context=contexts[0],
                rounds=self.pairs or (QUICK_PAIRS if self.quick else MIN_PAIRS),
                streams=self.streams,
                segment_chunks=self.segment_chunks,
                data=self.data,
                quick=self.quick,
            )
            console = Console()
            result = run_combined(settings, console)
        finish(console, result, (), json=json, plot=plot, draw=_drawing_combined, check=False)


def _drawing_combined() -> Callable[[BenchmarkResult, Path], None]:
    from objectcache.bench.combined.plot import draw

    return draw


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
