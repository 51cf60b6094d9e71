"""`objectcache demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from objectcache.demo import DemoOptions, run_demo

_DEFAULTS = DemoOptions()


def add_to(app: typer.Typer) -> None:
    app.command("demo")(run)


def run(
    url: Annotated[str, typer.Option(help="A cache that is there already: a gateway or a directory.")] = "",
    direct: Annotated[bool, typer.Option(help="No gateway: the engines open the store themselves.")] = False,
    store: Annotated[str, typer.Option(help="Where objects are (default: files), e.g. s3://bucket/prefix.")] = "",
    target: Annotated[str, typer.Option(help="How layers travel: shm, nixl, tcp or http.")] = _DEFAULTS.target,
    data: Annotated[Path | None, typer.Option(help="Directory of the store (default: a temporary one).")] = None,
    out: Annotated[Path, typer.Option(help="Directory for the picture.")] = _DEFAULTS.out,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures there.")] = None,
    png_file: Annotated[Path | None, typer.Option("--png", help="Write the picture there.")] = None,
    layers: Annotated[int | None, typer.Option(help="Layers of the model (default: 12).")] = None,
    short: Annotated[bool, typer.Option(help="A smaller model and document, for a quick look.")] = False,
    check: Annotated[bool, typer.Option(help="Exit with status 1 when a promise is broken.")] = False,
) -> None:
    """Store a long prompt's KV, restart the gateway, and answer another question about it in a new process: with
    recomputation, with the KV loaded as a whole, and loaded layer by layer. Needs objectcache\\[demo].

    [bold]Examples[/bold]

      objectcache demo

      objectcache demo --short --json demo.json --check

      objectcache demo --store s3://bucket/demo?endpoint=http://127.0.0.1:8000

      objectcache demo --url http://gateway:9000/kvcache --target tcp
    """
    options = DemoOptions(
        url=url,
        direct=direct,
        store=store,
        target=target,
        data=data,
        out=out,
        png_file=png_file,
        json_file=json_file,
        layers=layers,
        short=short,
    )
    if run_demo(options).broken and check:
        raise typer.Exit(1)
