"""`objectcache doctor`: why a hit rate is 0, from the cache itself and from what engines at it tell."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from objectcache.cache.directory import OBJECTS
from objectcache.cache.explain import Explains, ListRequest, WhyRequest
from objectcache.cache.explain.opening import find_cache
from objectcache.cache.explain.results import Listing
from objectcache.cache.explain.words import short
from objectcache.cli.explain import AsJson, Url, explainer_at
from objectcache.client import ClientOptions
from objectcache.client.http import GatewayHttp
from objectcache.connectors.diagnosis import CacheSeen, Check, Named, diagnose
from objectcache.connectors.status import EngineStatus, default_folder, read_statuses
from objectcache.errors import ConfigError, ObjectCacheError
from objectcache.keys import Namespace
from objectcache.opening import DEFAULT_PORT

METRICS_TIMEOUT_S = 5.0
_LIMIT = "objectcache_store_limit_bytes"


def add_to(app: typer.Typer) -> None:
    app.command("doctor")(doctor_command)


def doctor_command(
    url: Url = "",
    status: Annotated[
        str,
        typer.Option(
            metavar="DIR", help="Where engines tell how they are doing: their option status_dir.", show_default=False
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Say why a hit rate is 0: is the cache there, and do the engines find, load and store?

    Without a URL, that of the engine which told last. The exit status is 1 where something is wrong.

    [bold]Examples[/bold]

      objectcache doctor http://gateway:9000/kvcache

      objectcache doctor --status /run/objectcache/engines

      objectcache doctor file:///data --json
    """
    engines = read_statuses(Path(status).expanduser() if status else default_folder())
    asked = url or max(engines, key=lambda engine: engine.written_s, default=_NOBODY).url
    if not asked:
        raise ConfigError("which cache? Give file:///data or http://gateway:9000/bucket, or --status of an engine's")
    checks = diagnose(
        look(asked, engines), engines, now_s=time.time(), here=socket.gethostname(), alive=_alive(engines)
    )
    if as_json:
        print(json.dumps({"url": asked, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        _show(checks)
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


_NOBODY = EngineStatus(engine="", url="")


def look(url: str, engines: Sequence[EngineStatus]) -> CacheSeen:
    """What the cache at `url` shows: itself, and what it holds in the namespaces that engines ask in."""
    writable, room = _room(url)
    try:
        with explainer_at(url) as explainer:
            listing = explainer.list(ListRequest())
            wanted = {
                namespace.digest.hex(): namespace for engine in engines for namespace in engine.known_namespaces()
            }
            named = {digest: _named(explainer, listing, namespace) for digest, namespace in wanted.items()}
    except ObjectCacheError as error:
        return CacheSeen(url, error, writable=writable, room_bytes=room)
    tokens = sum(info.tokens for info in listing.namespaces)
    return CacheSeen(url, None, len(listing.namespaces), tokens, listing.total_bytes, writable, room, named)


def _named(explainer: Explains, listing: Listing, namespace: Namespace) -> Named:
    digest = short(namespace.digest)
    stored = next((info for info in listing.namespaces if info.digest == digest), None)
    if stored is not None:
        return Named(digest, stored.tokens)
    one_chunk = (0,) * namespace.layout.key_tokens
    why = explainer.why(WhyRequest(namespace=namespace.to_json().decode(), tokens=one_chunk))
    if not why.neighbours:
        return Named(digest, None)
    return Named(digest, None, why.neighbours[0].namespace, why.neighbours[0].differences)


def _room(url: str) -> tuple[bool | None, int | None]:
    """Whether the cache can be written, and what room it has in bytes; None for what cannot be told from here."""
    parts = urlsplit(url)
    if parts.scheme in ("http", "https"):
        return None, _gateway_room(url)
    if parts.scheme not in ("", "file"):
        return None, None
    try:
        objects = find_cache(Path(parts.path if parts.scheme else url).expanduser().absolute()) / OBJECTS
        return os.access(objects, os.W_OK | os.X_OK), shutil.disk_usage(objects).free
    except (ConfigError, OSError):
        return None, None


def _gateway_room(url: str) -> int | None:
    """What a gateway's own metrics say: its limit, since a full store makes room by evicting."""
    parts = urlsplit(url)
    if not parts.hostname:
        return None
    endpoint = ClientOptions().endpoint(parts.hostname, parts.port or DEFAULT_PORT, tls=parts.scheme == "https")
    http = GatewayHttp(endpoint, timeout_s=METRICS_TIMEOUT_S)
    try:
        text = http.request("GET", "/metrics").decode()
    except (ObjectCacheError, UnicodeDecodeError):
        return None
    finally:
        http.close()
    limits = {
        sample.labels.get("bucket", ""): int(sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == _LIMIT
    }
    return limits.get(parts.path.strip("/")) or None  # 0: there is no limit


def _alive(engines: Sequence[EngineStatus]) -> frozenset[int]:
    """Which of the engines' processes there are on this machine."""
    return frozenset(engine.pid for engine in engines if _is_alive(engine.pid))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _show(checks: Sequence[Check]) -> None:
    console = Console(highlight=False)
    engine = ""
    for check in checks:
        if check.engine != engine:
            engine = check.engine
            console.print(f"\nengine {engine}", style="bold", markup=False)
        mark, style = ("ok", "green") if check.ok else ("PROBLEM", "red")
        console.print(f"{mark:<8}", style=style, end="")
        console.print(f"{check.name}: {check.text}", markup=False, soft_wrap=True)
        if check.next_step and not check.ok:
            console.print(f"        -> {check.next_step}", style="bold", markup=False, soft_wrap=True)
    problems = sum(not check.ok for check in checks)
    console.print(f"\n{problems or 'no'} problem{'' if problems == 1 else 's'}")
