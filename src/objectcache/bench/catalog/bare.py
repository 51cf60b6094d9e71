"""The catalog's index as bare LMDB: the same entries in the same layout, and nothing else. What can be had at best."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from itertools import repeat
from pathlib import Path
from types import TracebackType

import lmdb

from objectcache.bench.retrieve.workload import PART
from objectcache.catalog.records import chunk_entries, part_key
from objectcache.segment import SegmentHeader

_APPENDED_AT_ONCE = 1 << 16
_MAP_BYTES = 1 << 36


class BareIndex(AbstractContextManager["BareIndex"]):
    """One database of (part, chunk key and place), synced as little as the catalog's."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True)
        self._environment = lmdb.open(
            str(path), map_size=_MAP_BYTES, max_dbs=1, sync=False, metasync=False, readahead=False
        )
        self._db = self._environment.open_db(b"chunks", dupsort=True, dupfixed=True)
        self._part = part_key(*PART)

    def append(self, entries: Sequence[bytes]) -> None:
        """Ascending, after all that are there."""
        for at in range(0, len(entries), _APPENDED_AT_ONCE):
            self._put(entries[at : at + _APPENDED_AT_ONCE], append=True)

    def insert(self, entries: Sequence[bytes]) -> None:
        """In one transaction, as they come."""
        self._put(entries, append=False)

    def _put(self, entries: Sequence[bytes], append: bool) -> None:
        with self._environment.begin(write=True) as transaction:
            pairs = zip(repeat(self._part), entries, strict=False)
            transaction.cursor(self._db).putmulti(pairs, append=append)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._environment.close()


def entries_of(headers: Iterable[SegmentHeader], first_id: int) -> list[bytes]:
    """What the index holds of segments whose ids begin with `first_id`."""
    entries: list[bytes] = []
    for id, header in enumerate(headers, first_id):
        entries += chunk_entries(id, header)
    return entries
