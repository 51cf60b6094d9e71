"""What the process tests run in other processes."""

from __future__ import annotations

import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

from objectcache.catalog import Catalog, Follower, grouping
from objectcache.errors import ObjectExistsError
from objectcache.logrecord import LogRecord
from objectcache.stores import FileStore
from tests.catalog.world import Segments, chain_of, namespace_of, simple_layout

NAMESPACE = namespace_of(simple_layout())


def commit_for_ever(folder: Path) -> None:
    """Upload, commit, delete, snapshot, in a loop, until somebody ends it."""
    store = FileStore(folder / "store")
    with Catalog.open(folder / "catalog", map_bytes=1 << 17) as catalog:
        follower = Follower(store, catalog)
        follower.poll()
        segments = Segments(NAMESPACE)
        (folder / "running").touch()
        done = 0
        while True:
            done += 1
            chain = chain_of(NAMESPACE, f"{time.perf_counter_ns():064d}")
            entries = []
            for first in range(0, 64, 16):
                entry = segments.entry(chain, first, first + 16, name=catalog.next_segment_name())
                try:
                    store.put(entry.name, b"", if_absent=True)
                except ObjectExistsError:
                    sys.exit(f"{entry.name} was given out before")
                entries.append(entry)
            follower.append(entries)
            catalog.touch([record.id for record in catalog.segments()][:4], time.time())
            if done % 3 == 0:
                follower.append(deletes=[next(catalog.eviction_order()).name])
            if done % 7 == 0:
                follower.snapshot()
            catalog.sweep(64)


def match_until(folder: Path, chunks: int, results: Connection) -> None:
    """Read-only: tell how much of the chain is there whenever that has changed, up to `chunks`."""
    chain = chain_of(NAMESPACE, "r" * chunks)
    before = -1
    with Catalog.open(folder / "catalog", readonly=True) as catalog:
        while before < chunks:
            held = sum(run.stop - run.first for run in catalog.match_part(chain, 0, 0))
            if held != before:
                results.send(held)
                before = held
    results.close()


def hold_view(folder: Path, results: Connection) -> None:
    """Read-only: begin to read, and never end."""
    with Catalog.open(folder / "catalog", readonly=True) as catalog, catalog.view():
        results.send("reading")
        time.sleep(600)


def fill_for_ever(folder: Path) -> None:
    """Fill an empty catalog, empty it, and so on, until somebody ends it."""
    grouping.BATCH_CHUNKS = 4  # so that sixteen segments are more than a transaction takes
    chain = chain_of(NAMESPACE, "f" * 64)
    with Catalog.open(folder / "catalog") as catalog:
        entries = Segments(NAMESPACE).entries(chain, range(0, 65, 4))
        records = [LogRecord("w", number, 0.0, (entry,)) for number, entry in enumerate(entries, 1)]
        (folder / "running").touch()
        while True:
            catalog.reset()
            catalog.apply(records)
