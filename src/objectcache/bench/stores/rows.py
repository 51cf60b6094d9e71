"""From fetches to rows and the summary: pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from objectcache.bench.bars import Bar
from objectcache.bench.result import Row, ratio_row, sample_row
from objectcache.bench.stores.fetch import Fetch
from objectcache.bench.stores.settings import StoresSettings

CEILING = "the service's ceiling"
CHUNK_GETS, RANGED_GETS = "a GET per chunk", "a ranged GET per slice"
DIRECT, COLD, HOT = "direct", "gateway cold", "gateway hot"
DELAYED = " far"
"""Ends the names of ways whose requests to the store are delayed."""
UNCACHED, ON_RADOS = "gateway uncached", " on RADOS"
SHORT = {1: ", 1 chunk", 2: ", 2 chunks", 4: ", 4 chunks"}
"""Prefixes so short that the fixed cost of asking is all there is: by their chunks, what names of ways say."""
TOTAL, FIRST_LAYER, GOODPUT = "total", "first layer", "goodput"

BARS = (
    Bar("descriptor_vs_range_per_slice", 3.0),
    Bar("descriptor_vs_range_per_slice_hot", 10.0),
    Bar("direct_first_layer_vs_chunk_get", 5.0),
    Bar("direct_over_gateway_30ms", 1.5, at_most=True),
)
RADOS_BARS = (
    Bar("rados_vs_rgw_first_layer", 1.3),
    Bar("rados_vs_rgw_first_layer_short", 3.0),
    Bar("rados_vs_rgw_total", 1.0),
)
"""The first and the last are meant for 16K tokens."""


def bars_of(settings: StoresSettings) -> tuple[Bar, ...]:
    """Of what is measured with these settings."""
    beside = RADOS_BARS if any(store.rados for store in settings.stores) else ()
    return beside if settings.only_rados else BARS + beside


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
    "rados_vs_rgw_total": (TOTAL, UNCACHED, UNCACHED + ON_RADOS),
}
_SHORT_KEY = "rados_vs_rgw_first_layer_short"


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
        rows.append(sample_row(named(store, way, GOODPUT), "GB/s", goodput, **about))
        requests = [float(fetch.requests) for fetch in fetches if fetch.requests is not None]
        if requests:
            rows.append(sample_row(named(store, way, "requests"), "requests", requests, **about))
    return rows


def ratio_rows(store: str, rows: Sequence[Row]) -> list[Row]:
    """Ratios of the pairs of one store, without those of ways that were not measured.

    Each belongs in the summary: under `key`, and there under `of_store`.
    """
    found = {row["name"]: row for row in rows}
    wanted = [(key, "", *ratio) for key, ratio in _RATIOS.items()]
    wanted += [(_SHORT_KEY, text, FIRST_LAYER, UNCACHED + text, UNCACHED + text + ON_RADOS) for text in SHORT.values()]
    ratios = []
    for key, length, figure, way, over in wanted:
        above, below = (found.get(named(store, side, figure)) for side in (way, over))
        if above is not None and below is not None:
            about = {"store": store, "key": key, "of_store": store + length}
            ratios.append(ratio_row(f"{store}: {figure} of {way} / {over}", above, below, **about))
    return ratios
