"""`objectcache bench`: a command per benchmark, each in a module named after it."""

from __future__ import annotations

import typer

from objectcache.cli.bench import catalog, contention, match, merge, modes, peers, retrieve, store, stores, ttft, vllm

__all__ = ["add_to", "app"]

app = typer.Typer(help="Measure this machine. Every benchmark writes raw samples as JSON.", no_args_is_help=True)
app.command("catalog")(catalog.command)
app.command("match")(match.command)
app.command("merge")(merge.command)
app.command("retrieve")(retrieve.command)
app.command("peers")(peers.command)
app.command("store")(store.command)
app.command("stores")(stores.command)
app.command("contention")(contention.command)
app.command("modes")(modes.command)
app.command("ttft")(ttft.command)
app.command("vllm")(vllm.command)


def add_to(main: typer.Typer) -> None:
    main.add_typer(app, name="bench")
