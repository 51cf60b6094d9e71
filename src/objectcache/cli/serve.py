"""`objectcache serve`."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from objectcache.config import GatewayConfig, load_config
from objectcache.errors import ConfigError
from objectcache.gateway import Gateway, serve
from objectcache.scheduling import DEFAULT_POLICY, POLICIES


def add_to(app: typer.Typer) -> None:
    app.command("serve")(run)


def run(
    data: Annotated[Path | None, typer.Option(help="Directory of the objects, or of what is kept beside them.")] = None,
    store: Annotated[
        str | None,
        typer.Option(
            help="Where objects are instead: s3://bucket/prefix?endpoint=http://host:port or rados://pool/prefix."
        ),
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(help='Size of the read cache in front of such a store, e.g. "2TB" (default: 80 % of the disk).'),
    ] = None,
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
    workers_per_session: Annotated[
        int | None,
        typer.Option(
            help="How many of them serve one client at once, if there are as many (default: 1; on 16 cores 3, from 22 "
            "on 4)."
        ),
    ] = None,
    limit: Annotated[str | None, typer.Option(help='Byte limit, e.g. "500GiB" (default: 80 % of the disk).')] = None,
    merge: Annotated[
        str | None,
        typer.Option(
            help='Bytes a second that merging small segments rewrites, e.g. "200MiB"; 0: none (default: 64MiB, with '
            "--store 0)."
        ),
    ] = None,
    bandwidth: Annotated[
        str | None,
        typer.Option(
            help='What the gateway\'s NIC may carry of deliveries, e.g. "100Gbps", "12GB/s" (default: no cap).'
        ),
    ] = None,
    share: Annotated[
        float | None, typer.Option(help="How much of --bandwidth is always this gateway's, where several share a link.")
    ] = None,
    lend: Annotated[
        float | None,
        typer.Option(help="Lend --bandwidth to other gateways; so much of it is set aside for what they always have."),
    ] = None,
    bandwidth_from: Annotated[
        str | None, typer.Option(help="http://host:port of the gateway that lends this one its share of --bandwidth.")
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help=f"Who goes first: {', '.join(POLICIES)} (default: {DEFAULT_POLICY}).")
    ] = None,
    access_keys: Annotated[
        Path | None,
        typer.Option(help="TOML file of access keys (default: access-keys.toml in DATA, made at the first start)."),
    ] = None,
    anonymous: Annotated[
        str | None, typer.Option(help="What unsigned requests may do: none, read, write or admin (default: none).")
    ] = None,
    domain: Annotated[
        list[str] | None,
        typer.Option(help="Host name below which buckets are host names, as in kvcache.DOMAIN; may be repeated."),
    ] = None,
    region: Annotated[str | None, typer.Option(help="Region that clients are told (default: us-east-1).")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate (PEM, with its chain): HTTP is TLS then.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The certificate's key (PEM).")] = None,
    plain_data: Annotated[
        bool | None,
        typer.Option(
            "--plain-data/--no-plain-data",
            help="Whether KV may travel over data connections, which have no TLS (default: yes, unless HTTP is TLS).",
        ),
    ] = None,
    shared_memory: Annotated[
        bool | None,
        typer.Option(
            "--shared-memory/--no-shared-memory",
            help="Whether clients on this host may have KV placed in their own memory (default: yes).",
        ),
    ] = None,
    nixl: Annotated[
        bool | None,
        typer.Option(
            "--nixl/--no-nixl",
            help="Whether clients may have KV written into memory that they register with NIXL (default: where it is "
            "installed).",
        ),
    ] = None,
    drain_s: Annotated[float | None, typer.Option(help="Seconds that SIGTERM waits for deliveries.")] = None,
    ready_json: Annotated[bool, typer.Option(help="Print one JSON line with the addresses when ready.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every refused request.")] = False,
) -> None:
    """Serve a directory, a bucket of any S3 store or a pool of Ceph as a gateway: S3 for control, TCP for the bytes.

    [bold]Examples[/bold]

      objectcache serve --data /var/lib/objectcache

      objectcache serve --data /var/lib/objectcache --store s3://kv/prod

      objectcache serve --data /var/lib/objectcache --store rados://kv/prod --cache 0

      objectcache serve --config gateway.toml --port 9100

      objectcache serve --data /srv/kv --bandwidth 100Gbps --policy slack

      objectcache serve --data /srv/kv --host 0.0.0.0 --tls-cert server.pem --tls-key server-key.pem
    """
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    overrides = {
        "data": data,
        "store": store,
        "cache_bytes": cache,
        "host": host,
        "port": port,
        "data_port": data_port,
        "advertise_host": advertise_host,
        "buckets": tuple(bucket) if bucket else None,
        "workers": workers,
        "workers_per_session": workers_per_session,
        "limit_bytes": limit,
        "merge_bytes_s": merge,
        "bandwidth": bandwidth,
        "share": share,
        "lend": lend,
        "bandwidth_from": bandwidth_from,
        "policy": policy,
        "access_keys": access_keys,
        "anonymous": anonymous,
        "domains": tuple(domain) if domain else None,
        "region": region,
        "tls_cert": tls_cert,
        "tls_key": tls_key,
        "plain_data": plain_data,
        "shared_memory": shared_memory,
        "nixl": nixl,
        "drain_s": drain_s,
    }
    settings = load_config(config, overrides)
    console = Console(soft_wrap=True)
    scheme = "https" if settings.tls_cert else "http"

    def ready(gateway: Gateway) -> None:
        if ready_json:
            # One line for programs that start a gateway and want to know where it listens.
            addresses = {
                "scheme": scheme,
                "host": settings.host,
                "port": gateway.port,
                "data_port": gateway.data_port,
                "worker_pids": gateway.worker_pids,
                "access_keys": None if gateway.keys_file is None else str(gateway.keys_file),
            }
            print(json.dumps(addresses), flush=True)
            return
        where = f"{settings.store}, beside it {settings.data}" if settings.store else str(settings.data)
        console.print(f"[bold]ObjectCache gateway[/bold] on {where}")
        for name in settings.buckets:
            console.print(f'  objectcache.open("{scheme}://{settings.host}:{gateway.port}/{name}")', highlight=False)
        for line in _about_access(settings, gateway):
            console.print(f"  {line}", highlight=False, markup=False)
        console.print(f"  {_about_data(settings, gateway)}; Ctrl-C drains and stops", highlight=False)

    try:
        serve(settings, ready)
    except OSError as error:
        raise ConfigError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}") from error


def _about_access(settings: GatewayConfig, gateway: Gateway) -> list[str]:
    """Who may do what, and how clients say who they are."""
    if gateway.keys_file is None:
        return ["nobody signs: whoever reaches this gateway may do everything"]
    made = "one access key was made, which may do everything: it is" if gateway.keys_made else "access keys are"
    told = [
        f"{made} in {gateway.keys_file}",
        "  clients find a key in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: its id and secret there;",
        "  edit the file to add keys, each with what it may do in which bucket: it is read anew as it changes",
    ]
    if settings.anonymous is not None:
        told.append(f"  requests that are not signed have {settings.anonymous.name.lower()} access to all buckets")
    return told


def _about_data(settings: GatewayConfig, gateway: Gateway) -> str:
    if settings.serves_data_connections:
        return f"data connections on port {gateway.data_port}, not encrypted"
    return "KV comes in HTTP responses: no data connections beside TLS without --plain-data"
