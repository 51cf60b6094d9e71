"""When segments were last used, and which are to go first."""

from __future__ import annotations

import threading
from collections.abc import Container, Iterable, Iterator, Mapping
from itertools import chain, islice

import numpy as np
import numpy.typing as npt

from objectcache.catalog.batch import TOUCH
from objectcache.catalog.environment import TOUCHED, Environment
from objectcache.catalog.records import SegmentRecord, pack_id
from objectcache.catalog.view import CatalogView, RecordCache

_PAGE = 64
_JOINED_AT_ONCE = 4096
_ROW = np.dtype([("id", ">u8"), ("time_s", ">f8"), ("depth", ">u4")])


class Recency:
    """Uses that are not in the database yet: they go there with its next transaction. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times_s: dict[int, float] = {}

    def touch(self, ids: Iterable[int], now_s: float) -> int:
        """Returns how many segments wait to be written."""
        with self._lock:
            self._times_s.update(dict.fromkeys(ids, now_s))
            return len(self._times_s)

    def waiting(self) -> dict[int, float]:
        with self._lock:
            return dict(self._times_s)

    def written(self, times_s: Mapping[int, float]) -> None:
        """These are in the database now."""
        with self._lock:
            for id, time_s in times_s.items():
                if self._times_s.get(id) == time_s:
                    del self._times_s[id]

    def clear(self) -> None:
        with self._lock:
            self._times_s.clear()

    def used_since(self, id: int, time_s: float) -> bool:
        with self._lock:
            return self._times_s.get(id, time_s) > time_s


def least_recent(
    environment: Environment, records: RecordCache, recency: Recency, pinned: Container[int]
) -> Iterator[SegmentRecord]:
    """Visible segments by when they were last used, of those used together the deepest in its chain first.

    One that is used, or goes, between the call and its turn is passed over, so that the iterator may be kept for a
    while. Takes 20 bytes of memory a segment.
    """
    with environment.read() as transaction:
        cursor = iter(transaction.cursor(environment.db(TOUCHED)))
        # Piece by piece: what joins them all at once makes a list of them first, five times as large.
        rows = bytearray()
        while piece := b"".join(chain.from_iterable(islice(cursor, _JOINED_AT_ONCE))):
            rows += piece
    table = np.frombuffer(rows, dtype=_ROW)
    order = np.lexsort((-table["depth"].astype(np.int64), table["time_s"]))
    return _still_unused(environment, records, recency, pinned, table[order])


def _still_unused(
    environment: Environment,
    records: RecordCache,
    recency: Recency,
    pinned: Container[int],
    table: npt.NDArray[np.void],
) -> Iterator[SegmentRecord]:
    for at in range(0, len(table), _PAGE):
        page = table[at : at + _PAGE]
        found = []
        with environment.read() as transaction:
            view = CatalogView(environment, transaction, records)
            for id, time_s in zip(page["id"].tolist(), page["time_s"].tolist(), strict=True):
                touched = transaction.get(pack_id(id), db=environment.db(TOUCHED))
                record = view.segment(id)
                if record is not None and touched is not None and TOUCH.unpack(touched)[0] == time_s:
                    found.append((record, time_s))
        for record, time_s in found:
            if record.id not in pinned and not recency.used_since(record.id, time_s):
                yield record
