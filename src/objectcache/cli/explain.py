"""`objectcache ls`, `inspect` and `why`: what is stored, and why something does not match."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.console import Console, RenderableType
from rich.progress import Progress
from rich.text import Text

from objectcache.cache.directory import state_folder
from objectcache.cache.explain import (
    DEFAULT_LIMIT,
    Explains,
    InspectRequest,
    LayerVerdict,
    ListRequest,
    SegmentInspection,
    VerifyRequest,
    WhyRequest,
    explain_store,
    open_explainer,
)
from objectcache.cli.explain_tables import inspection_tables, listing_tables, verdict_lines, why_tables
from objectcache.client import ClientOptions
from objectcache.client.explain import GatewayExplainer
from objectcache.client.http import GatewayHttp
from objectcache.errors import ConfigError
from objectcache.opening import DEFAULT_PORT
from objectcache.stores import open_store

GATEWAY_TIMEOUT_S = 120.0
"""Some answers take going over the whole index."""
PIPED_WIDTH = 240

Url = Annotated[
    str,
    typer.Argument(
        metavar="URL",
        envvar="OBJECTCACHE_URL",
        show_default=False,
        help="file:///data or a path (also of a gateway that runs), s3://bucket/prefix, rados://pool/prefix, or "
        "http://gateway:9000/bucket.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def add_to(app: typer.Typer) -> None:
    app.command("ls")(list_command)
    app.command("inspect")(inspect_command)
    app.command("why")(why_command)


def list_command(
    url: Url = "",
    segments: Annotated[bool, typer.Option("--segments", "-s", help="List segments too.")] = False,
    namespace: Annotated[str, typer.Option(help="Only namespaces whose digest begins so (8 hex digits or more).")] = "",
    limit: Annotated[int, typer.Option(min=0, help="List at most this many segments; 0: all.")] = DEFAULT_LIMIT,
    as_json: AsJson = False,
) -> None:
    """What is stored: namespaces, and their segments.

    [bold]Examples[/bold]

      objectcache ls /var/lib/objectcache/kvcache

      objectcache ls http://gateway:9000/kvcache --segments --namespace 3fb1c09a

      OBJECTCACHE_URL=file:///data objectcache ls --json
    """
    with explainer_at(url) as explainer:
        listing = explainer.list(ListRequest(namespace, segments, limit))
    _show(asdict(listing), listing_tables(listing), as_json)


def inspect_command(
    what: Annotated[
        str,
        typer.Argument(
            metavar="KEY|SEGMENT|NAMESPACE",
            help="How a chunk key or a namespace's digest begins (8 hex digits or more), or a segment's name.",
        ),
    ],
    url: Url = "",
    verify: Annotated[bool, typer.Option(help="Read the whole segment and check every digest.")] = False,
    as_json: AsJson = False,
) -> None:
    """One thing closely: what holds a chunk and all before it, a segment's header and layers, a namespace's fields.

    With --verify, the exit status is 1 for a segment that is damaged.

    [bold]Examples[/bold]

      objectcache inspect 9c04d7e15ab2 /data

      objectcache inspect 1f0a…/000/000/000/001 /data --verify

      objectcache inspect 3fb1c09a http://gateway:9000/kvcache
    """
    with explainer_at(url) as explainer:
        found = explainer.inspect(InspectRequest(what))
        if verify and not isinstance(found, SegmentInspection):
            raise ConfigError("--verify reads a segment: give a segment's name, as `objectcache ls --segments` shows")
        verdicts = _verify(explainer, found) if verify and isinstance(found, SegmentInspection) else []
    data, shown = asdict(found), inspection_tables(found)
    if verify and isinstance(found, SegmentInspection):
        data["verdicts"] = [asdict(verdict) for verdict in verdicts]
        shown += verdict_lines(found, verdicts)
    _show(data, shown, as_json)
    if any(verdict.problem for verdict in verdicts):
        raise typer.Exit(1)


def why_command(
    url: Url = "",
    key: Annotated[str, typer.Option(metavar="HEX", help="A chunk's key, or how it begins.")] = "",
    tokens: Annotated[
        str, typer.Option(metavar="FILE", help="Token ids: a JSON list, or separated by white space; - is stdin.")
    ] = "",
    namespace: Annotated[
        str,
        typer.Option(
            metavar="DIGEST|FILE.json",
            help="With --tokens: how the namespace's digest begins, or the namespace as JSON (Namespace.to_json).",
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Why a prompt matches as far as it does, and no farther. The exit status is 0 whatever the reason.

    Text becomes token ids by the engine's own tokenizer and chat template: give those ids.

    [bold]Examples[/bold]

      objectcache why /data --tokens prompt.json --namespace 3fb1c09a

      objectcache why /data --tokens - --namespace engine-namespace.json < ids.txt

      objectcache why http://gateway:9000/kvcache --key 9c04d7e15ab2
    """
    if bool(key) == bool(tokens):
        raise ConfigError("why what? Give either --key HEX, or --tokens FILE with --namespace")
    if tokens and not namespace:
        raise ConfigError("--tokens needs --namespace: `objectcache ls` shows the digests of those stored")
    if key and namespace:
        raise ConfigError("--key needs no --namespace: a key is of one namespace only")
    request = WhyRequest(key, _namespace(namespace), read_tokens(tokens) if tokens else ())
    with explainer_at(url) as explainer:
        explanation = explainer.why(request)
    _show(asdict(explanation), why_tables(explanation), as_json)


# -- what was given -----------------------------------------------------------------------------------


@contextmanager
def explainer_at(url: str) -> Iterator[Explains]:
    """Raises ConfigError for a URL that is none, and what opening it does."""
    if not url:
        raise ConfigError("which cache? Give file:///data or http://gateway:9000/bucket, or set OBJECTCACHE_URL")
    parts = urlsplit(url)
    if parts.scheme in ("http", "https"):
        bucket = parts.path.strip("/")
        if not parts.hostname or not bucket or "/" in bucket:
            raise ConfigError(f"a gateway's URL is http://host:port/bucket, got {url!r}")
        tls = parts.scheme == "https"
        endpoint = ClientOptions().endpoint(parts.hostname, parts.port or DEFAULT_PORT, tls=tls)
        http = GatewayHttp(endpoint, timeout_s=GATEWAY_TIMEOUT_S)
        try:
            yield GatewayExplainer(http, bucket)
        finally:
            http.close()
    elif parts.scheme in ("", "file") and not parts.query:
        path = Path(parts.path if parts.scheme else url).expanduser().absolute()
        with open_explainer(path) as explainer:
            yield explainer
    elif parts.scheme in ("s3", "rados", "file"):
        with open_store(url) as store, explain_store(store, state_folder(store.url)) as explainer:
            yield explainer
            counts = ", ".join(f"{count} {kind}" for kind, count in sorted(store.request_counts().items()))
            if counts:
                where = "bucket" if parts.scheme == "s3" else "pool"
                Console(stderr=True).print(f"requests to the {where}: {counts}", style="dim", highlight=False)
    else:
        raise ConfigError(
            f"{url!r} cannot be explained: known are file:///data, paths, s3://bucket/prefix, "
            "rados://pool/prefix and http://gateway:9000/bucket"
        )


def read_tokens(source: str) -> tuple[int, ...]:
    """Token ids from a file, or stdin for "-". Raises ConfigError that says what is wrong."""
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the tokens in {source}: {error}") from error
    try:
        found = json.loads(text) if text.lstrip().startswith("[") else [int(word) for word in text.split()]
    except ValueError as error:
        raise ConfigError(f"{source} is neither a JSON list nor token ids separated by white space: {error}") from error
    wrong = next((item for item in found if type(item) is not int), None)
    if wrong is not None:
        raise ConfigError(f"{source} should be a flat list of token ids, but has {str(wrong)[:40]!r} in it")
    if not found:
        raise ConfigError(f"{source} has no token ids in it")
    return tuple(found)


def _namespace(given: str) -> str:
    """A namespace's JSON out of a file, or the digits themselves."""
    if not given.endswith(".json"):
        return given
    try:
        return Path(given).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the namespace in {given}: {error}") from error


# -- what comes out -----------------------------------------------------------------------------------


def _verify(explainer: Explains, found: SegmentInspection) -> list[LayerVerdict]:
    verdicts = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("verifying", total=sum(layer.layer_bytes for layer in found.layers))
        for position, layer in enumerate(found.layers):
            verdicts.append(explainer.verify(VerifyRequest(found.segment.name, position)))
            progress.advance(task, layer.layer_bytes)
    return verdicts


def _show(data: dict[str, Any], shown: list[RenderableType], as_json: bool) -> None:
    if as_json:
        print(json.dumps(data, indent=2))
        return
    # Where lines go to a file or another program, a table cut to 80 columns would lose names.
    piped = not sys.stdout.isatty()
    console = Console(markup=False, highlight=False, width=PIPED_WIDTH if piped else None)
    for item in shown:
        console.print(item, soft_wrap=piped and isinstance(item, Text))
