"""Changes to the catalog within one write transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import islice, repeat
from struct import Struct
from typing import Any

import lmdb
import msgpack
import numpy as np
import numpy.typing as npt

from objectcache.catalog.environment import (
    CHUNKS,
    META,
    NAMES,
    NAMESPACES,
    POSITIONS,
    REMOVED,
    SEGMENTS,
    TOUCHED,
    Environment,
)
from objectcache.catalog.meta import load_meta, save_meta
from objectcache.catalog.records import (
    ROW,
    DamagedCatalogError,
    SegmentRecord,
    chunk_entries,
    pack_id,
    part_key,
    row_ids,
    split_entry,
    unpack_id,
)
from objectcache.catalog.view import CatalogView, RecordCache
from objectcache.errors import CatalogError
from objectcache.keys import Namespace
from objectcache.logrecord import CommitEntry, LogRecord, Removal, Replacement
from objectcache.segment import SegmentHeader
from objectcache.snapshot import SnapshotPart, still_open

_U64 = Struct(">Q")
TOUCH = Struct(">dI")
"""When a segment was last used (Unix time, seconds), and its depth in its chain."""

_ANCESTORS_CACHED = 1024


class Batch:
    """Collects changes; `finish` writes what was collected. Nothing of it may be used when the transaction aborts.

    `new` are the segments that came, by id.
    """

    def __init__(self, environment: Environment, transaction: lmdb.Transaction[bytes], now_s: float) -> None:
        self._environment = environment
        self._transaction = transaction
        self._now_s = now_s
        self.meta = load_meta(transaction, environment.db(META))
        self.new: dict[int, SegmentHeader] = {}
        self._merged: set[int] = set()
        self._names = environment.db(NAMES)
        self._segments = environment.db(SEGMENTS)
        self._touched = environment.db(TOUCHED)
        self._removed = environment.db(REMOVED)
        self._positions = environment.db(POSITIONS)
        self._chunks = environment.db(CHUNKS)

    # -- replay -----------------------------------------------------------------------------------

    def position(self, writer: str) -> int:
        found = self._transaction.get(writer.encode(), db=self._positions)
        return 0 if found is None else unpack_id(found)

    def _set_position(self, writer: str, sequence: int) -> None:
        self._transaction.put(writer.encode(), _U64.pack(sequence), db=self._positions)

    def apply(self, record: LogRecord) -> bool:
        """Whether the record was new. Raises CatalogError when its predecessor has not been applied."""
        position = self.position(record.writer)
        if record.sequence <= position:
            return False
        if record.sequence != position + 1:
            raise CatalogError(f"record {record.sequence} of writer {record.writer} does not follow {position}")
        for entry in record.commits:
            self.commit(entry)
        for replacement in record.replaces:
            self._inherit(replacement)
        for removal in record.removals():
            self.remove(removal)
        self._set_position(record.writer, record.sequence)
        return True

    def apply_all(self, records: Iterable[LogRecord]) -> int:
        """How many of the records were new. Raises as `apply`."""
        return sum(map(self.apply, records))

    def commit(self, entry: CommitEntry) -> None:
        """Make a segment visible, unless it is, or its removal has been read before."""
        name = entry.name.encode()
        if self._transaction.delete(name, db=self._removed):
            return
        id = self.meta.next_id
        if not self._transaction.put(name, pack_id(id), overwrite=False, db=self._names):
            return
        record = SegmentRecord.of(id, entry.header, entry.row_digests)
        self._transaction.put(pack_id(id), record.encode(), append=True, db=self._segments)
        self._transaction.put(pack_id(id), TOUCH.pack(self._now_s, record.depth), append=True, db=self._touched)
        self._transaction.put(record.namespace, b"", overwrite=False, db=self._environment.db(NAMESPACES))
        self.new[id] = entry.header
        self.meta = replace(
            self.meta,
            next_id=id + 1,
            segments=self.meta.segments + 1,
            chunks=self.meta.chunks + record.num_chunks,
            total_bytes=self.meta.total_bytes + record.total_bytes,
        )

    def remove(self, removal: Removal) -> None:
        """Forget a segment, also one whose commit is yet to be read: so that the order of logs does not matter."""
        name, seen = removal
        if not self.forget(name):
            left = still_open(removal, {writer: self.position(writer) for writer, _ in seen})
            if left is not None:
                self._put_removed(left)

    def _put_removed(self, removal: Removal) -> None:
        name, seen = removal
        self._transaction.put(name.encode(), msgpack.packb(seen), db=self._removed)

    def forget(self, name: str) -> bool:
        """Whether there was such a segment. Its index entries dangle from now on."""
        id = self._transaction.get(name.encode(), db=self._names)
        if id is None:
            return False
        data = self._transaction.get(id, db=self._segments)
        if data is None:
            raise DamagedCatalogError(f"the catalog has lost its record of segment {name}")
        record = SegmentRecord.decode(unpack_id(id), data)
        self._transaction.delete(name.encode(), db=self._names)
        self._transaction.delete(id, db=self._segments)
        self._transaction.delete(id, db=self._touched)
        fresh = self.new.pop(record.id, None)
        self.meta = replace(
            self.meta,
            segments=self.meta.segments - 1,
            chunks=self.meta.chunks - record.num_chunks,
            total_bytes=self.meta.total_bytes - record.total_bytes,
            dangling_chunks=self.meta.dangling_chunks + (record.num_chunks if fresh is None else 0),
        )
        return True

    def settle_removals(self) -> None:
        """Forget removals whose segments' commits cannot come any more: all logs have been read that far."""
        positions: dict[str, int] = {}
        done = []
        for name, packed in self._transaction.cursor(self._removed):
            seen = tuple((writer, position) for writer, position in msgpack.unpackb(packed))
            for writer, _ in seen:
                if writer not in positions:
                    positions[writer] = self.position(writer)
            if still_open((name.decode(), seen), positions) is None:
                done.append(name)
        for name in done:
            self._transaction.delete(name, db=self._removed)

    # -- filling an empty catalog -----------------------------------------------------------------

    def begin_load(self) -> None:
        """From now on until `end_load` the catalog counts as incomplete, and new segments are not in the index."""
        self.meta = replace(self.meta, complete=False)

    def load(self, parts: Iterable[SnapshotPart]) -> None:
        """Take over parts of a snapshot."""
        for part in parts:
            for entry in part.commits:
                self.commit(entry)
            for removal in part.removed:
                self._put_removed(removal)

    def index(self, rows: npt.NDArray[np.uint8], alive: npt.NDArray[np.uint64]) -> None:
        """Append rows (see `records.entry_rows`) that follow all that are in the index, but not those of segments that
        are not `alive` (ids, ascending) any more.
        """
        if self.meta.dangling_chunks:
            kept = np.isin(row_ids(rows), alive)
            self.meta = replace(self.meta, dangling_chunks=self.meta.dangling_chunks - int((~kept).sum()))
            rows = rows[kept]
        entries: list[Any] = np.ascontiguousarray(rows).view(ROW).reshape(-1).tolist()
        self._transaction.cursor(self._chunks).putmulti(entries, append=True)

    def end_load(self, positions: Mapping[str, int]) -> None:
        """All is in; `positions` are where a snapshot ends."""
        self.meta = replace(self.meta, complete=True)
        for writer, position in positions.items():
            self._set_position(writer, position)

    def put_namespace(self, namespace: Namespace) -> None:
        self._transaction.put(namespace.digest, namespace.to_json(), db=self._environment.db(NAMESPACES))

    # -- recency ----------------------------------------------------------------------------------

    def touch(self, times_s: Mapping[int, float]) -> None:
        for id, time_s in times_s.items():
            self._touch(id, time_s)

    def _touch(self, id: int, time_s: float) -> bool:
        """Whether the segment is there and was last used before `time_s`."""
        found = self._transaction.get(pack_id(id), db=self._touched)
        if found is None:
            return False
        before_s, depth = TOUCH.unpack(found)
        if before_s >= time_s:
            return False
        self._transaction.put(pack_id(id), TOUCH.pack(time_s, depth), db=self._touched)
        return True

    def _inherit(self, replacement: Replacement) -> None:
        """A segment that replaces others was last used when the latest of them was: it is no new use."""
        found = [self._transaction.get(name.encode(), db=self._names) for name in replacement.old]
        touched = [self._transaction.get(id, db=self._touched) for id in found if id is not None]
        times_s = [TOUCH.unpack(item)[0] for item in touched if item is not None]
        for name in replacement.new if times_s else ():
            id = self._transaction.get(name.encode(), db=self._names)
            if id is not None and unpack_id(id) in self.new:
                depth = self.new[unpack_id(id)].depth
                self._transaction.put(id, TOUCH.pack(max(times_s), depth), db=self._touched)
                self._merged.add(unpack_id(id))

    def _touch_ancestors(self) -> None:
        """What new segments stand on was used when they were made: leaves are to go before their prefixes."""
        view = CatalogView(self._environment, self._transaction, RecordCache(_ANCESTORS_CACHED))
        for id, header in self.new.items():
            if id in self._merged:
                continue
            part = part_key(header.group, header.shard)
            key, depth = header.parent, header.depth
            while depth:
                found = view.candidates(part, key, depth - 1)
                if not found:
                    break
                record = max(found, key=lambda item: item[1])[0]
                if not self._touch(record.id, self._now_s):
                    break
                key, depth = record.parent, record.depth

    # -- the index --------------------------------------------------------------------------------

    def sweep(self, after: tuple[bytes, bytes] | None, max_entries: int) -> tuple[int, tuple[bytes, bytes] | None]:
        """Remove what dangles among the `max_entries` index entries that follow `after` (None: the first ones).

        Returns how many, and the last entry that was looked at (None at the end of the index).
        """
        cursor = self._transaction.cursor(self._chunks)
        if after is None:
            found = cursor.first()
        else:
            part, entry = after
            found = cursor.set_range_dup(part, entry + b"\0") or cursor.set_range(part + b"\0")
        entries = list(islice(cursor, max_entries)) if found else []
        return self.remove_dangling(entries), entries[-1] if len(entries) == max_entries else None

    def remove_dangling(self, entries: Iterable[tuple[bytes, bytes]]) -> int:
        """Remove those of `entries` whose segment is gone. Returns how many."""
        gone: dict[int, bool] = {}
        removed = 0
        for part, entry in entries:
            _, id, _ = split_entry(entry)
            if id not in gone:
                gone[id] = self._transaction.get(pack_id(id), db=self._segments) is None
            if gone[id] and self._transaction.delete(part, entry, db=self._chunks):
                removed += 1
        self.meta = replace(self.meta, dangling_chunks=self.meta.dangling_chunks - removed)
        return removed

    def finish(self, *, indexed: bool = True) -> None:
        """`indexed`: put new segments into the index, and touch what they stand on."""
        if indexed:
            entries: list[tuple[bytes, bytes]] = []
            for id, header in self.new.items():
                entries += zip(repeat(part_key(header.group, header.shard)), chunk_entries(id, header), strict=False)
            entries.sort()  # neighbours go to the same page
            self._transaction.cursor(self._chunks).putmulti(entries)
            self._touch_ancestors()
        save_meta(self._transaction, self._environment.db(META), self.meta)
