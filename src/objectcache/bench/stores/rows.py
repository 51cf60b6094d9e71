"""From fetches to rows and the summary: pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from objectcache.bench.bars import Bar
from objectcache.bench.result import Row, ratio_row, sample_row
from objectcache.bench.stores.fetch import Fetch

CEILING = "the service's ceiling"
CHUNK_GETS, RANGED_GETS = "a GET per chunk", "a ranged GET per slice"
DIRECT, COLD, HOT = "direct", "gateway cold", "gateway hot"
DELAYED = " far"
"""Ends the names of ways whose requests to the store are delayed."""
UNCACHED, SHORT, ON_RADOS = "gateway uncached", ", 2 chunks", " on RADOS"
TOTAL, FIRST_LAYER = "total", "first layer"

BARS = (
    Bar("descriptor_vs_range_per_slice", 3.0),
    Bar("descriptor_vs_range_per_slice_hot", 10.0),
    Bar("direct_first_layer_vs_chunk_get", 5.0),
    Bar("direct_over_gateway_30ms", 1.5, at_most=True),
)

# Key of the summary: what, of which way, over the same of which other.
_RATIOS = {
    "descriptor_vs_range_per_slice": (TOTAL, RANGED_GETS, COLD),
    "descriptor_vs_range_per_slice_hot": (TOTAL, RANGED_GETS, HOT),
    "direct_first_layer_vs_chunk_get": (FIRST_LAYER, CHUNK_GETS, DIRECT),
    "direct_over_gateway_30ms": (TOTAL, DIRECT + DELAYED, COLD + DELAYED),
    "direct_over_ceiling": (TOTAL, DIRECT, CEILING),
    "gateway_cold_over_ceiling": (TOTAL, COLD, CEILING),
    "chunk_get_over_ceiling": (TOTAL, CHUNK_GETS, CEILING),
    # Where a pool of the same cluster is given.
    "rados_vs_rgw_first_layer": (FIRST_LAYER, UNCACHED, UNCACHED + ON_RADOS),
    "rados_vs_rgw_first_layer_short": (FIRST_LAYER, UNCACHED + SHORT, UNCACHED + SHORT + ON_RADOS),
    "rados_vs_rgw_total": (TOTAL, UNCACHED, UNCACHED + ON_RADOS),
}


def named(store: str, way: str, figure: str) -> str:
    return f"{store}: {way}, {figure}"


def fetch_rows(store: str, measured: Mapping[str, Sequence[Fetch]], zero_s: float) -> list[Row]:
    """Rows of ways that were measured in turn, i-th beside i-th. `at_s`, from `zero_s` on, shows the order."""
    rows = []
    for way, fetches in measured.items():
        about = {"store": store, "way": way, "payload_bytes": fetches[0].payload_bytes}
        at_s = [fetch.started_s - zero_s for fetch in fetches]
        totals_ms = [fetch.total_s * 1e3 for fetch in fetches]
        rows.append(sample_row(named(store, way, TOTAL), "ms", totals_ms, at_s=at_s, **about))
        first_ms = [fetch.first_layer_s * 1e3 for fetch in fetches if fetch.first_layer_s is not None]
        if first_ms:
            rows.append(sample_row(named(store, way, FIRST_LAYER), "ms", first_ms, **about))
        goodput = [fetch.goodput_gb_s for fetch in fetches]
        rows.append(sample_row(named(store, way, "goodput"), "GB/s", goodput, **about))
        requests = [float(fetch.requests) for fetch in fetches if fetch.requests is not None]
        if requests:
            rows.append(sample_row(named(store, way, "requests"), "requests", requests, **about))
    return rows


def ratio_rows(store: str, rows: Sequence[Row]) -> dict[str, Row]:
    """Ratios of the pairs of one store, by key in the summary, without those of ways that were not measured."""
    found = {row["name"]: row for row in rows}
    ratios = {}
    for key, (figure, way, over) in _RATIOS.items():
        above, below = (found.get(named(store, side, figure)) for side in (way, over))
        if above is not None and below is not None:
            ratios[key] = ratio_row(f"{store}: {figure} of {way} / {over}", above, below, store=store, key=key)
    return ratios
