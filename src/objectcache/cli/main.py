"""`objectcache`: its commands, and how errors are shown."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

import objectcache
from objectcache.cli import bandwidth, bench, demo, doctor, explain, merge, serve, simulate
from objectcache.errors import ObjectCacheError

app = typer.Typer(
    name="objectcache",
    help="Prefix KV cache for LLM serving in object storage, delivered layer by layer.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
serve.add_to(app)
demo.add_to(app)
explain.add_to(app)
doctor.add_to(app)
merge.add_to(app)
simulate.add_to(app)
bandwidth.add_to(app)
bench.add_to(app)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        print(objectcache.__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line. Errors that are ours are one line on stderr, and exit status 1."""
    try:
        app()
    except ObjectCacheError as error:
        text = escape(str(error))  # 'objectcache[plot]' is no markup
        Console(stderr=True).print(f"[red]error[/red] [bold]{error.code}[/bold]: {text}", highlight=False)
        sys.exit(1)
