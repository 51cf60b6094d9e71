"""`objectcache serve`."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from objectcache.config import load_config
from objectcache.errors import ConfigError
from objectcache.gateway import Gateway, serve


def add_to(app: typer.Typer) -> None:
    app.command("serve")(run)


def run(
    data: Annotated[Path | None, typer.Option(help="Directory of the file store.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with any of these settings.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on (default: 127.0.0.1).")] = None,
    port: Annotated[int | None, typer.Option(help="HTTP port; 0 takes a free one (default: 9000).")] = None,
    data_port: Annotated[int | None, typer.Option(help="Port of the data connections (default: a free one).")] = None,
    advertise_host: Annotated[
        str | None, typer.Option(help="Host under which clients reach this very gateway, past any load balancer.")
    ] = None,
    bucket: Annotated[
        list[str] | None, typer.Option(help="Bucket to make; may be repeated (default: kvcache).")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Data workers (default: cores / 4).")] = None,
    limit: Annotated[str | None, typer.Option(help='Byte limit, e.g. "500GiB" (default: 80 % of the disk).')] = None,
    drain_s: Annotated[float | None, typer.Option(help="Seconds that SIGTERM waits for deliveries.")] = None,
    ready_json: Annotated[bool, typer.Option(help="Print one JSON line with the addresses when ready.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every refused request.")] = False,
) -> None:
    """Serve a directory as a gateway: S3-style HTTP for control, TCP connections for the bytes.

    [bold]Examples[/bold]

      objectcache serve --data /var/lib/objectcache

      objectcache serve --config gateway.toml --port 9100
    """
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    overrides = {
        "data": data,
        "host": host,
        "port": port,
        "data_port": data_port,
        "advertise_host": advertise_host,
        "buckets": tuple(bucket) if bucket else None,
        "workers": workers,
        "limit_bytes": limit,
        "drain_s": drain_s,
    }
    settings = load_config(config, overrides)
    console = Console()

    def ready(gateway: Gateway) -> None:
        if ready_json:
            # One line for programs that start a gateway and want to know where it listens.
            addresses = {
                "host": settings.host,
                "port": gateway.port,
                "data_port": gateway.data_port,
                "worker_pids": gateway.worker_pids,
            }
            print(json.dumps(addresses), flush=True)
            return
        console.print(f"[bold]ObjectCache gateway[/bold] on {settings.data}")
        for name in settings.buckets:
            console.print(f'  objectcache.open("http://{settings.host}:{gateway.port}/{name}")', highlight=False)
        console.print(f"  data connections on port {gateway.data_port}; Ctrl-C drains and stops", highlight=False)

    try:
        serve(settings, ready)
    except OSError as error:
        raise ConfigError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}") from error
