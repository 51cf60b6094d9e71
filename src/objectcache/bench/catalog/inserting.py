"""Inserts into a full catalog, beside bare LMDB's of the same entries into a full index."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from objectcache.bench.catalog.bare import BareIndex, entries_of
from objectcache.bench.catalog.settings import CatalogSettings
from objectcache.bench.catalog.site import CatalogSite
from objectcache.bench.machine import allocated_bytes
from objectcache.bench.result import Row, percentile, ratio_row, sample_row
from objectcache.catalog import Catalog
from objectcache.catalog.loading import IndexLoad
from objectcache.catalog.records import PART_BYTES, ROW_BYTES
from objectcache.logrecord import LogRecord

INSERT, BARE_INSERT = "insert into the full catalog", "bare LMDB, sorted insert into a full index"
BARE_APPEND = "bare LMDB, append of the sorted index"
GROWN = "bytes a chunk on disk, after inserts"
_ID_OF_BARE = 1 << 40
"""Beyond any in the catalog: inserts into bare LMDB are of other segments than those that it is filled with."""


def insert_rows(settings: CatalogSettings, site: CatalogSite, directory: Path, step: Callable[[], None]) -> list[Row]:
    """Chunks a second of transactions of `insert_chains` chains each, in turn with bare LMDB's, the time of a commit,
    and what the catalog has grown to. Steps: 2 + `settings.inserts`.
    """
    with BareIndex(directory / "bare") as bare, Catalog.open(site.catalog) as catalog:
        rows = [_fill(bare, site, directory)]
        step()
        bare_rates, rates = [], []
        for number in range(settings.inserts):
            records = _records(site, number * settings.insert_chains, settings.insert_chains)
            headers = [record.commits[0].header for record in records]
            chunks = sum(header.num_chunks for header in headers)
            if number < settings.pairs:
                entries = sorted(entries_of(headers, _ID_OF_BARE))
                bare_rates.append(chunks / _seconds(partial(bare.insert, entries)))
            rates.append(chunks / _seconds(partial(catalog.apply, records)))
            step()
        rows += _rate_rows(bare_rates, rates, settings)
        rows.append(_commit_row(catalog, site, settings.inserts * settings.insert_chains))
        step()
        stats = catalog.stats()
    grown = allocated_bytes(site.database) / stats.chunks
    return [*rows, sample_row(GROWN, "bytes", [grown], chunks=stats.chunks, segments=stats.segments)]


def _fill(bare: BareIndex, site: CatalogSite, directory: Path) -> Row:
    """With what the catalog has."""
    rates = []
    with IndexLoad(directory) as load:
        for number in range(site.workload.num_chains):
            for id, entry in enumerate(site.workload.entries(number), site.workload.sequence(number)):
                load.add(id, entry.header)
        for piece in load.in_order():
            data = piece[:, PART_BYTES:].tobytes()
            size = ROW_BYTES - PART_BYTES
            entries = [data[at : at + size] for at in range(0, len(data), size)]
            rates.append(len(entries) / _seconds(partial(bare.append, entries)))
    return sample_row(BARE_APPEND, "chunks/s", rates)


def _rate_rows(bare_rates: Sequence[float], rates: Sequence[float], settings: CatalogSettings) -> list[Row]:
    about = {"chunks_in_transaction": settings.insert_chains * settings.size.chain_chunks}
    bare = sample_row(BARE_INSERT, "chunks/s", bare_rates, **about)
    paired = sample_row(INSERT, "chunks/s", rates[: len(bare_rates)], **about)
    later = [sample_row(f"{INSERT}, later", "chunks/s", rates[len(bare_rates) :])] if rates[len(bare_rates) :] else []
    return [bare, paired, ratio_row(f"{INSERT} / bare LMDB", paired, bare), *later]


def _commit_row(catalog: Catalog, site: CatalogSite, after: int) -> Row:
    """Of segments of the largest size, each by itself, as an engine stores them."""
    sizes = site.workload.segment_sizes
    times_ms = []
    for record in _records(site, after, len(sizes)):
        time_ms = _seconds(partial(catalog.apply, [record])) * 1e3
        if record.commits[0].header.num_chunks == max(sizes):
            times_ms.append(time_ms)
    shares = {"p50": percentile(times_ms, 50), "p99": percentile(times_ms, 99)}
    return sample_row(f"commit of a segment of {max(sizes)} chunks", "ms", times_ms, **shares)


def _records(site: CatalogSite, after: int, chains: int) -> list[LogRecord]:
    """Of chains that follow those of the catalog."""
    first = site.workload.num_chains + after
    return list(site.workload.records(first, first + chains))


def _seconds(work: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    work()
    return time.perf_counter() - start_s
