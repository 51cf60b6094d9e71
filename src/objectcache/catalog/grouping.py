"""How much goes into one transaction of a replay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from objectcache.logrecord import LogRecord
from objectcache.snapshot import SnapshotPart

C = TypeVar("C", LogRecord, SnapshotPart)

BATCH_CHUNKS = 1 << 13
"""Every chunk dirties a page of its own, and two transactions' worth of pages stay free."""
_BATCH_ITEMS = 4096


def grouped(items: Iterable[C]) -> Iterator[list[C]]:
    """Lists of items, as many as a transaction should take."""
    group: list[C] = []
    chunks = 0
    for item in items:
        group.append(item)
        chunks += sum(entry.header.num_chunks for entry in item.commits)
        if chunks >= BATCH_CHUNKS or len(group) >= _BATCH_ITEMS:
            yield group
            group, chunks = [], 0
    if group:
        yield group
