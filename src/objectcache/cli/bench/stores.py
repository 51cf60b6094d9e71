"""`objectcache bench stores`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from objectcache.bench.result import BenchmarkResult
from objectcache.bench.retrieve import RetrieveSettings
from objectcache.cli.bench.options import (
    QUICK_PAIRS,
    CheckOption,
    JsonOption,
    LayersOption,
    PairsOption,
    PlotOption,
    QuickOption,
    finish,
    require,
)

_QUICK_CONTEXT, _QUICK_LAYERS = 512, 8


def command(
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
    rados: Annotated[
        str,
        typer.Option(help="rados://pool/prefix of the Ceph cluster behind the first --url, to compare."),
    ] = "",
    only_rados: Annotated[
        bool, typer.Option("--only-rados", help="Only RADOS beside the S3 gateway of its cluster, e.g. at 16K tokens.")
    ] = False,
    context: Annotated[int | None, typer.Option(help="Prefix length in tokens.", show_default="4096")] = None,
    layers: LayersOption = None,
    pairs: PairsOption = None,
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

      objectcache bench stores --url 's3://kv-bench?endpoint=http://rgw:7480' --rados rados://kv-bench/bench

      objectcache bench stores --start rgw --only-rados --context 16384 --check

      objectcache bench stores --start seaweedfs --quick
    """
    require(plot is not None, "matplotlib", "--plot", "plot")
    require(True, "obstore", "bench stores", "s3")
    from objectcache.bench.stores import bars_of, run_stores
    from objectcache.bench.stores.services import stores_of
    from objectcache.bench.stores.settings import StoresSettings

    defaults = StoresSettings
    started = start.split(",") if start else [] if url else ["rgw", "seaweedfs"]
    with stores_of(url or [], started, rados) as found:
        settings = StoresSettings(
            stores=found,
            context=context or (_QUICK_CONTEXT if quick else defaults.context),
            pairs=pairs or (QUICK_PAIRS if quick else defaults.pairs),
            delay_s=delay_ms / 1e3,
            segment_chunks=segment_chunks,
            only_rados=only_rados,
            data=data,
            quick=quick,
            shape=replace(defaults.shape, num_layers=layers or (_QUICK_LAYERS if quick else defaults.shape.num_layers)),
        )
        console = Console()
        result = run_stores(settings, console)
    finish(console, result, bars_of(settings), json=json, plot=plot, draw=_drawing, check=check)


def _drawing() -> Callable[[BenchmarkResult, Path], None]:
    from objectcache.bench.stores.plot import draw

    return draw
