"""From measurements to rows and the summary: pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from objectcache.bench.bars import Bar
from objectcache.bench.peers.measured import Measured
from objectcache.bench.result import Row, ratio_row, sample_row

GOODPUT, TOTAL, FIRST_LAYER, LAST_ASKED = "goodput", "total", "first layer", "last chunk asked for"
SERVER_CPU, CLIENT_CPU = "server CPU", "client CPU"

BARS = (
    Bar("goodput_vs_whole_chunk", 2.0),
    Bar("goodput_vs_ranged", 10.0),
    Bar("first_layer_vs_whole_chunk", 20.0),
)


def named(way: str, figure: str) -> str:
    return f"{way}: {figure}"


def way_rows(
    way: str, kind: str, measured: Sequence[Measured], *, zero_s: float, layers: int, of_layers: int, whole: bool
) -> list[Row]:
    """Of one way. Where it read only `layers` of `of_layers`, the total is scaled to all of them. `whole`: its first
    layer is there when the last chunk is; then a client that looked into the streams would see it no earlier than it
    asks for that chunk. `at_s`, from `zero_s` on, shows the order."""
    fetches = [m.fetch for m in measured]
    about: dict[str, Any] = {
        "way": way,
        "kind": kind,
        "payload_bytes": fetches[0].payload_bytes,
        "layers": layers,
        "of_layers": of_layers,
    }
    at_s = [f.started_s - zero_s for f in fetches]
    scale = of_layers / layers
    rows = [
        sample_row(named(way, GOODPUT), "GB/s", [f.goodput_gb_s for f in fetches], at_s=at_s, **about),
        sample_row(named(way, TOTAL), "ms", [f.total_s * scale * 1e3 for f in fetches], **about),
    ]
    first_ms = [f.first_layer_s * 1e3 for f in fetches if f.first_layer_s is not None]
    if first_ms:
        rows.append(sample_row(named(way, FIRST_LAYER), "ms", first_ms, **about))
    asked_ms = [f.last_asked_s * 1e3 for f in fetches if f.last_asked_s is not None]
    if whole and asked_ms:
        rows.append(sample_row(named(way, LAST_ASKED), "ms", asked_ms, **about))
    rows.append(sample_row(named(way, SERVER_CPU), "CPU s/GB", [m.server_cpu_s_per_gb for m in measured], **about))
    rows.append(sample_row(named(way, CLIENT_CPU), "CPU s/GB", [m.client_cpu_s_per_gb for m in measured], **about))
    return rows


def best(rows: Sequence[Row], ways: Sequence[str], figure: str) -> Row:
    """Of `figure`, the row with the best median among `ways`: the highest goodput, the lowest time."""
    names = {named(way, figure) for way in ways}
    found = [row for row in rows if row["name"] in names]
    pick = max if figure == GOODPUT else min
    return pick(found, key=lambda row: float(row["median"]))


def ratio_rows(
    rows: Sequence[Row], ours: str, *, raw: str, whole: Sequence[str], ranged: Sequence[str]
) -> tuple[list[Row], dict[str, float]]:
    """What `ours` is to the ceiling, to the best of each kind, and to every other way; and the summary."""
    found: Mapping[str, Row] = {row["name"]: row for row in rows}
    goodput, first = found[named(ours, GOODPUT)], found[named(ours, FIRST_LAYER)]
    best_whole, best_ranged = best(rows, whole, GOODPUT), best(rows, ranged, GOODPUT)
    best_first, best_asked = best(rows, whole, FIRST_LAYER), best(rows, whole, LAST_ASKED)
    keyed = {
        "goodput_vs_whole_chunk": (goodput, best_whole),
        "goodput_vs_ranged": (goodput, best_ranged),
        "first_layer_vs_whole_chunk": (best_first, first),
    }
    ratios = [_ratio(above, below, key=key) for key, (above, below) in keyed.items()]
    summary = {key: float(row["median"]) for key, row in zip(keyed, ratios, strict=True)}
    ratios.append(_ratio(best_asked, first))
    ratios.append(_ratio(goodput, found[named(raw, GOODPUT)]))
    taken = (best_whole, best_ranged)
    ratios += [_ratio(goodput, row) for way in (*whole, *ranged) if (row := found[named(way, GOODPUT)]) not in taken]
    return ratios, summary


def _ratio(above: Row, below: Row, **about: Any) -> Row:
    return ratio_row(f"{above['name']} / {below['name']}", above, below, **about)
