"""`objectcache bandwidth`: what the links of a gateway may carry, and who goes first."""

from __future__ import annotations

import json
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.table import Table

from objectcache.cli.explain_tables import size
from objectcache.client import ClientOptions
from objectcache.client.http import GatewayHttp
from objectcache.config import parse_rate
from objectcache.errors import ConfigError
from objectcache.opening import DEFAULT_PORT

TIMEOUT_S = 10.0
NO_CAP = ("none", "off")


def add_to(app: typer.Typer) -> None:
    app.command("bandwidth")(bandwidth_command)


def bandwidth_command(
    url: Annotated[
        str,
        typer.Argument(metavar="URL", envvar="OBJECTCACHE_URL", show_default=False, help="http://gateway:9000"),
    ] = "",
    set_to: Annotated[
        str, typer.Option("--set", help='The cap from now on, e.g. "50Gbps", "6GB/s"; 0: pause; none: no cap.')
    ] = "",
    link: Annotated[
        str, typer.Option(help="Of which link: gateway, store:BUCKET, client:ADDRESS, or a pattern as client:10.0.*.")
    ] = "gateway",
    policy: Annotated[str, typer.Option(help="Who goes first when links are full.")] = "",
    weight: Annotated[
        list[str] | None, typer.Option(metavar="ACCESS_KEY=WEIGHT", help="A tenant's share; may be repeated.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a gateway's links may carry and what they do, or set it. It counts at once, also for what is under way.

    [bold]Examples[/bold]

      objectcache bandwidth http://gateway:9000

      objectcache bandwidth http://gateway:9000 --set 50Gbps --policy slack

      objectcache bandwidth http://gateway:9000 --link 'client:10.0.*' --set 25Gbps

      objectcache bandwidth http://gateway:9000 --set none --json
    """
    asked: dict[str, Any] = {}
    if set_to:
        asked["caps"] = {link: None if set_to in NO_CAP else 0.0 if set_to == "0" else parse_rate(set_to)}
    if policy:
        asked["policy"] = policy
    if weight:
        asked["weights"] = dict(_weight(item) for item in weight)
    http = _gateway(url)
    try:
        shown = json.loads(http.request("POST", "/?kv-bandwidth", json.dumps(asked).encode() if asked else b""))
    finally:
        http.close()
    if as_json:
        print(json.dumps(shown, indent=2))
        return
    console = Console(highlight=False)
    console.print(f"policy [bold]{shown['policy']}[/bold] of {', '.join(shown['policies'])}")
    console.print(_table(shown) if shown["links"] or shown["caps"] else "no link has a cap")
    for tenant, share in sorted(shown["weights"].items()):
        console.print(f"tenant {tenant}: weight {share:g}", markup=False)


def _table(shown: dict[str, Any]) -> Table:
    table = Table("link", "cap", "in use", "deliveries")
    for column in table.columns[1:]:
        column.justify = "right"
    for link, found in shown["links"].items():
        table.add_row(link, _rate(found["cap_bytes_s"]), _rate(found["used_bytes_s"]), str(found["deliveries"]))
    for pattern in sorted(set(shown["caps"]) - set(shown["links"])):
        table.add_row(pattern, _rate(shown["caps"][pattern]), "", "")
    return table


def _rate(bytes_s: float) -> str:
    return f"{size(int(bytes_s))}/s ({bytes_s * 8 / 1e9:.3g} Gbps)"


def _weight(item: str) -> tuple[str, float]:
    tenant, _, number = item.rpartition("=")
    try:
        return tenant, float(number)
    except ValueError:
        raise ConfigError(f"--weight is ACCESS_KEY=NUMBER, got {item!r}") from None


def _gateway(url: str) -> GatewayHttp:
    """Raises ConfigError for a URL that is no gateway's."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"which gateway? Give http://host:port, or set OBJECTCACHE_URL; got {url!r}")
    endpoint = ClientOptions().endpoint(parts.hostname, parts.port or DEFAULT_PORT, tls=parts.scheme == "https")
    return GatewayHttp(endpoint, timeout_s=TIMEOUT_S)
