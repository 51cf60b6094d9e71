"""`objectcache bench catalog`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from objectcache.bench.catalog import CHUNKS, QUICK_CHUNKS, CatalogSettings, CatalogSize, bars, run_catalog
from objectcache.bench.result import BenchmarkResult
from objectcache.cli.bench.options import (
    QUICK_PAIRS,
    CheckOption,
    JsonOption,
    PairsOption,
    PlotOption,
    QuickOption,
    finish,
    require,
)

ChunksOption = Annotated[
    int | None, typer.Option("--chunks", help="Chunks in the catalog.", min=1, show_default=f"{CHUNKS}")
]


def command(
    json: JsonOption = None,
    plot: PlotOption = None,
    chunks: ChunksOption = None,
    rounds: Annotated[int, typer.Option(help="How often it is built anew.", min=1)] = CatalogSettings().rounds,
    pairs: PairsOption = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Where logs and catalogs lie meanwhile.", show_default="the system's temporary directory"),
    ] = None,
    quick: QuickOption = False,
    check: CheckOption = False,
) -> None:
    """The catalog alone, of synthetic keys without KV: bytes a chunk, inserts, opening, building it anew.

    Three quarters of the chains are in segments of 256 chunks, an eighth each in segments of 64 and of 16. Ten million
    chunks (20 TB of KV of Llama 3.1 8B) take about 3 GB below --data, most of it for the log.

    [bold]Examples[/bold]

      objectcache bench catalog --json catalog.json --plot catalog.png

      objectcache bench catalog --quick --check
    """
    require(plot is not None, "matplotlib", "--plot", "plot")
    settings = CatalogSettings(
        size=CatalogSize(chunks or (QUICK_CHUNKS if quick else CHUNKS)),
        rounds=rounds,
        pairs=pairs or (QUICK_PAIRS if quick else CatalogSettings().pairs),
        data=data,
        quick=quick,
    )
    console = Console()
    result = run_catalog(settings, console)
    finish(console, result, bars(settings.size.chunks), json=json, plot=plot, draw=_drawing, check=check)


def _drawing() -> Callable[[BenchmarkResult, Path], None]:
    from objectcache.bench.catalog.plot import draw

    return draw
