"""`objectcache bench match`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from objectcache.bench.catalog import CHUNKS, QUICK_CHUNKS, CatalogSize
from objectcache.bench.match import MatchSettings, bars, run_match
from objectcache.bench.match.settings import PAIRS
from objectcache.bench.result import BenchmarkResult
from objectcache.cli.bench.catalog import ChunksOption
from objectcache.cli.bench.options import (
    QUICK_PAIRS,
    CheckOption,
    JsonOption,
    PlotOption,
    QuickOption,
    finish,
    require,
)


def command(
    json: JsonOption = None,
    plot: PlotOption = None,
    chunks: ChunksOption = None,
    pairs: Annotated[
        int | None, typer.Option("--pairs", help="Passes over all chains.", show_default=str(PAIRS))
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Keep the catalog in this directory, or use the one that an earlier run left there.",
            show_default="a temporary directory",
        ),
    ] = None,
    quick: QuickOption = False,
    check: CheckOption = False,
) -> None:
    """Matches of 256 to 4,096 chunks in a catalog of synthetic keys: in this process, over HTTP, with cold caches.

    Each beside what it cannot do without: look-ups in bare LMDB, reads of as many pages, and hashing the prompt.

    [bold]Examples[/bold]

      objectcache bench match --json match.json --plot match.png

      objectcache bench match --data /var/tmp/catalog-10m --pairs 30
    """
    require(plot is not None, "matplotlib", "--plot", "plot")
    settings = MatchSettings(
        size=CatalogSize(chunks or (QUICK_CHUNKS if quick else CHUNKS)),
        pairs=pairs or (QUICK_PAIRS if quick else PAIRS),
        data=data,
        quick=quick,
    )
    console = Console()
    result = run_match(settings, console)
    finish(console, result, bars(settings.size.chunks), json=json, plot=plot, draw=_drawing, check=check)


def _drawing() -> Callable[[BenchmarkResult, Path], None]:
    from objectcache.bench.match.plot import draw

    return draw
