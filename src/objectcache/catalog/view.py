"""The catalog at one moment: look-ups within one read transaction."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

import lmdb

from objectcache.catalog.environment import CHUNKS, SEGMENTS, Environment
from objectcache.catalog.records import Run, SegmentRecord, pack_id, pack_place, part_key, unpack_place
from objectcache.errors import DescriptorError, KeyNotFoundError, NamespaceMismatchError
from objectcache.keys import KEY_BYTES, KeyChain
from objectcache.recent import Recent

Accept = Callable[[SegmentRecord], bool]
Asked = tuple[bytes, int, int, bytes, int, int]
RESOLVED_RUNS = 8192
"""Of all answers that are kept: a run is about 150 bytes, and keeps its segment's record, of 1 KB."""


def accept_all(_: SegmentRecord) -> bool:
    return True


class RecordCache:
    """Decoded segment records, the most recently used. A record never changes while its id is there.

    `resolved` are the latest answers of `CatalogView.resolve`, each with the state of the catalog that it is of.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._records: OrderedDict[int, SegmentRecord] = OrderedDict()
        self.resolved: Recent[Asked, tuple[int, tuple[Run, ...]]] = Recent(RESOLVED_RUNS)

    def get(self, id: int) -> SegmentRecord | None:
        with self._lock:
            found = self._records.get(id)
            if found is not None:
                self._records.move_to_end(id)
            return found

    def add(self, record: SegmentRecord) -> None:
        with self._lock:
            self._records[record.id] = record
            if len(self._records) > self._limit:
                self._records.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._records.clear()
        self.resolved.clear()


class CatalogView:
    """Valid within `Catalog.view()`, in one thread.

    Positions in a chain are counted in the group's own chunks. `dangling` receives index entries that lead nowhere
    (part key, entry).
    """

    def __init__(
        self,
        environment: Environment,
        transaction: lmdb.Transaction[bytes],
        records: RecordCache,
        dangling: Callable[[bytes, bytes], None] = lambda part, entry: None,
    ) -> None:
        self._records = records
        self._state = transaction.id()
        self._dangling = dangling
        self._chunks = transaction.cursor(environment.db(CHUNKS))
        self._segments = transaction.cursor(environment.db(SEGMENTS))

    def segment(self, id: int) -> SegmentRecord | None:
        """The visible segment of that id, or None."""
        if not self._segments.set_key(pack_id(id)):
            return None
        record = self._records.get(id)
        if record is None:
            record = SegmentRecord.decode(id, self._segments.value())
            self._records.add(record)
        return record

    def find(self, key: bytes, group: int, shard: int) -> list[tuple[SegmentRecord, int]]:
        """All segments that hold the chunk, each with the chunk's index in it."""
        return self._find(part_key(group, shard), key)

    def _find(self, part: bytes, key: bytes) -> list[tuple[SegmentRecord, int]]:
        cursor, found = self._chunks, []
        there = cursor.set_range_dup(part, key)
        while there:
            entry = cursor.value()
            if not entry.startswith(key):
                break
            id, index = unpack_place(entry[KEY_BYTES:])
            record = self.segment(id)
            if record is None:
                self._dangling(part, entry)
            else:
                found.append((record, index))
            there = cursor.next_dup()
        return found

    def _has(self, part: bytes, key: bytes) -> bool:
        """Whether the index has the chunk, be it only of a segment that is gone."""
        return self._chunks.set_range_dup(part, key) and self._chunks.value().startswith(key)

    def candidates(
        self, part: bytes, key: bytes, position: int, accept: Accept = accept_all
    ) -> list[tuple[SegmentRecord, int]]:
        """Segments that hold the chunk at `position` of its chain. One that says it lies elsewhere is not believed."""
        return [
            (record, index)
            for record, index in self._find(part, key)
            if record.depth + index == position and accept(record)
        ]

    def match_part(self, chain: KeyChain, group: int, shard: int, accept: Accept = accept_all) -> list[Run]:
        """Where the chunks of `chain` are, from its first on, as far as they are stored.

        Takes a look-up or two per segment: the last chunk that a segment could contribute is tested first, and only
        where it is another one the chunks between are searched. Of duplicates the one that reaches farthest is taken.
        """
        part, data, length = part_key(group, shard), chain.data, len(chain)
        runs: list[Run] = []
        at = 0
        while at < length:
            best: Run | None = None
            key = data[at * KEY_BYTES : (at + 1) * KEY_BYTES]
            for record, index in self.candidates(part, key, at, accept):
                run = Run(record, index, index + self._reach(part, chain, at, record, index))
                if best is None or run.stop - run.first > best.stop - best.first:
                    best = run
            if best is None:
                break
            runs.append(best)
            at += best.stop - best.first
        return runs

    def _reach(self, part: bytes, chain: KeyChain, at: int, record: SegmentRecord, index: int) -> int:
        """How many chunks of `chain` from `at` on `record` holds from its chunk `index` on (which it does hold)."""
        known, beyond = 1, min(len(chain) - at, record.num_chunks - index)
        probe = beyond
        if beyond == record.num_chunks - index:
            if chain[at + beyond - 1] == record.leaf:
                return beyond
            beyond -= 1
            probe = (known + beyond + 1) // 2
        # A key names all that is before it: what holds one chunk of the chain holds all up to it.
        while known < beyond:
            if self._chunks.set_key_dup(part, chain[at + probe - 1] + pack_place(record.id, index + probe - 1)):
                known = probe
            else:
                beyond = probe - 1
            probe = (known + beyond + 1) // 2
        return known

    def cover_back(
        self, chain: KeyChain, group: int, shard: int, first: int, stop: int, accept: Accept = accept_all
    ) -> tuple[int, list[Run]]:
        """Where chunks [first, stop) of `chain` are, found from the last one backwards.

        Returns (missing, runs): `missing` is where the last gap begins, which may be before `first`, and the runs cover
        what follows it; it is -1 when nothing is missing.
        """
        part = part_key(group, shard)
        runs: list[Run] = []
        while stop > first:
            found = self.candidates(part, chain[stop - 1], stop - 1, accept)
            if not found:
                return self._gap_start(part, chain, stop - 1), runs[::-1]
            record, index = max(found, key=lambda item: item[1])
            begin = max(first, stop - 1 - index)
            runs.append(Run(record, index + 1 - (stop - begin), index + 1))
            stop = begin
        return -1, runs[::-1]

    def _gap_start(self, part: bytes, chain: KeyChain, missing: int) -> int:
        """The first of the chunks up to `missing`, which is not stored, that are not in the index either."""
        data = chain.data
        while missing and not self._has(part, data[(missing - 1) * KEY_BYTES : missing * KEY_BYTES]):
            missing -= 1
        return missing

    def resolve(self, namespace: bytes, group: int, shard: int, leaf: bytes, first: int, stop: int) -> tuple[Run, ...]:
        """Where chunks [first, stop) of the chain that ends in `leaf` are: from the leaf back through parents.

        Raises KeyNotFoundError for a chunk that is not stored (any more), NamespaceMismatchError when the leaf is of
        another namespace, DescriptorError when it is not chunk `stop - 1` of its chain.
        """
        asked = (namespace, group, shard, leaf, first, stop)
        known = self._records.resolved.get(asked)
        if known is not None and known[0] == self._state:
            return known[1]
        runs = tuple(self._resolve(namespace, group, shard, leaf, first, stop))
        self._records.resolved.put(asked, (self._state, runs), len(runs))
        return runs

    def _resolve(self, namespace: bytes, group: int, shard: int, leaf: bytes, first: int, stop: int) -> list[Run]:
        if not 0 <= first < stop:
            raise DescriptorError(f"chunks [{first}, {stop}) are no range")
        part = part_key(group, shard)
        runs: list[Run] = []
        key, until = leaf, stop
        while until > first:
            found = [item for item in self._find(part, key) if item[0].namespace == namespace]
            placed = [item for item in found if item[0].depth + item[1] == until - 1]
            if not placed:
                self._explain(part, key, leaf, until, found)
            record, index = max(placed, key=lambda item: item[1])
            begin = max(first, record.depth)
            runs.append(Run(record, begin - record.depth, index + 1))
            key, until = record.parent, begin
        return runs[::-1]

    def _explain(
        self, part: bytes, key: bytes, leaf: bytes, until: int, found: list[tuple[SegmentRecord, int]]
    ) -> None:
        """Raise what is wrong with the chunk `until - 1`, of which `found` are in the namespace."""
        group, shard = part[0], int.from_bytes(part[1:], "big")
        if key == leaf and found:
            record, index = found[0]
            raise DescriptorError(
                f"the leaf key is of chunk {record.depth + index} of its chain, not of chunk {until - 1}"
            )
        if key == leaf and self._find(part, key):
            raise NamespaceMismatchError("the leaf key belongs to another namespace")
        raise KeyNotFoundError(f"chunk {until - 1} of group {group}, shard {shard} is not stored: {key.hex()}")
