"""Writers' logs: commit, follow, snapshot. No clocks, no shared service beside the store.

A writer's log is the objects `.kv/log/<writer>/<sequence>` from 1 on, gapless: record n + 1 is written once n is
there. A snapshot stands for all records up to its positions, after which `trim` may remove them. How logs are followed,
and what happens to damaged records, is in `logview`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from objectcache.errors import CatalogError, IntegrityError, LayoutError, ObjectExistsError, ObjectNotFoundError
from objectcache.logrecord import CommitEntry, LogRecord, Replacement, Seen
from objectcache.logview import LogTrimmedError, LogView
from objectcache.names import check_writer, log_name, snapshot_name
from objectcache.segment import decoded_name
from objectcache.snapshot import Snapshot, SnapshotWriter, still_open
from objectcache.stores import ExpectedObjects, Store, delete_all

__all__ = ["CommitEntry", "CommitLog", "LogRecord", "LogTrimmedError", "Replacement", "Snapshot"]

_log = logging.getLogger(__name__)

_ATTEMPTS = 32
"""How often a name may turn out to be taken. Each time another writer of the same id got ahead, which must not be."""


class CommitLog(LogView):
    """The log of `writer`, and a view of all others. `append` may be called from any thread.

    `position` is a lower bound of the log's end, if one is known.
    """

    def __init__(self, store: Store, writer: str, *, position: int = 0, clock: Callable[[], float] = time.time) -> None:
        super().__init__(store)
        self.writer = check_writer(writer)
        self._clock = clock
        self._lock = threading.Lock()
        self._known = position
        self._next: int | None = None

    def append(
        self,
        commits: Sequence[CommitEntry] = (),
        *,
        deletes: Sequence[str] = (),
        replaces: Sequence[Replacement] = (),
        seen: Mapping[str, int] | None = None,
    ) -> LogRecord:
        """Write the next record. Where it removes segments, `seen` must be the positions of the catalog they were found
        in. Raises LayoutError for a record that cannot be, StoreError when it may or may not have been written.
        """
        if (deletes or replaces) and seen is None:
            raise LayoutError("a removal must say which positions its writer's catalog has reached")
        known = tuple(sorted(seen.items())) if seen else ()
        with self._lock:
            if self._next is None:
                self._next = self._find_end() + 1
            for _ in range(_ATTEMPTS):
                record = LogRecord(
                    self.writer, self._next, self._clock(), tuple(commits), tuple(deletes), tuple(replaces), known
                )
                try:
                    self._store.put(log_name(self.writer, self._next), record.encoded, if_absent=True)
                except ObjectExistsError:
                    # An earlier append of ours failed only as far as we know, or somebody has our id.
                    self._known = self._next
                    self._next = self._find_end() + 1
                    continue
                self._known = self._next
                self._next += 1
                return record
        raise CatalogError(f"somebody else writes the log of {self.writer}: every next record is already there")

    def _find_end(self) -> int:
        """The last sequence of the own log. One that was removed whole goes on where snapshots say."""
        end = self._known
        for sequence in self.sequences(self.writer, end):
            end = sequence
        if end == 0:
            end = max((found.positions.get(self.writer, 0) for found in self.snapshots()), default=0)
        return end

    def write_snapshot(self, positions: Mapping[str, int]) -> Snapshot:
        """Write a snapshot of all records up to `positions` and of what the latest snapshot covers beyond them. Gives
        back the latest one when that would add nothing.

        Memory grows with what was deleted since the latest snapshot, not with what is stored.
        Raises LogTrimmedError when another snapshot got ahead, LaterFormatError, StoreError.
        """
        base, pending = self._whole_base()
        after = base.positions if base else {}
        if base and base.covers(positions):
            return base
        upto = {writer: max(positions.get(writer, 0), after.get(writer, 0)) for writer in {*positions, *after}}
        for record in self._between(after, upto):
            pending.update(record.removals())
        removed = frozenset(pending)

        # Positions only grow, so that a name is never used for two snapshots.
        snapshot = Snapshot(self._store, snapshot_name(self.writer, sum(upto.values())), upto)
        with self._store.upload(snapshot.name, if_absent=True) as upload:
            output = SnapshotWriter(upload, upto)
            for name, wire in self._commits(base, after, upto):
                if name in removed:
                    pending.pop(name, None)
                else:
                    output.add(wire)
            left = (still_open(removal, upto) for removal in pending.items())
            output.finish(removal for removal in left if removal is not None)
            upload.publish()
        return snapshot

    def _whole_base(self) -> tuple[Snapshot | None, dict[str, Seen]]:
        """The most advanced snapshot that is undamaged throughout, and what was removed before it was committed."""
        for base in self.usable_snapshots():
            try:
                return base, dict(item for part in base.parts() for item in part.removed)
            except IntegrityError as error:
                self.disregard(base.name, error)
        return None, {}

    def _commits(
        self, base: Snapshot | None, after: Mapping[str, int], upto: Mapping[str, int]
    ) -> Iterator[tuple[str, list[bytes]]]:
        """By name, as they are stored. Those of the base have been decoded just now, by `_whole_base`."""
        for part in base.packed_parts() if base else ():
            for wire in part.commits:
                yield decoded_name(wire[0]), wire
        for record in self._between(after, upto):
            for entry in record.commits:
                yield entry.name, entry.to_wire()

    def _between(self, after: Mapping[str, int], upto: Mapping[str, int]) -> Iterator[LogRecord]:
        """Records after `after` up to `upto`, which somebody has followed: those missing now are lost."""
        ranges = {writer: range(after.get(writer, 0) + 1, stop + 1) for writer, stop in sorted(upto.items())}
        names = (log_name(writer, sequence) for writer, sequences in ranges.items() for sequence in sequences)
        with ExpectedObjects(self._store, names) as ahead:
            yield from self._present(ranges, ahead)

    def _present(self, ranges: Mapping[str, range], ahead: ExpectedObjects) -> Iterator[LogRecord]:
        for writer, sequences in ranges.items():
            missing = -1
            for sequence in sequences:
                try:
                    yield self.read(writer, sequence, ahead.get)
                except ObjectNotFoundError:
                    if missing != sequence - 1:
                        self.check_trimmed(writer, sequence)
                        _log.warning("record %d of writer %s is lost: not in the snapshot", sequence, writer)
                    missing = sequence

    def trim(self, keep_snapshots: int = 2) -> int:
        """Remove the log records that the `keep_snapshots` most advanced snapshots all cover, and other snapshots.

        Keeping two is the safety margin: the older one and the records since are all it takes to do without the
        newer, and followers that are a little behind need not start over. Each writer's last record stays, so that
        its log's end can be found. Returns how many objects went. Raises StoreError.
        """
        snapshots = self.usable_snapshots()
        if len(snapshots) < keep_snapshots:
            return 0
        kept = snapshots[:keep_snapshots]
        names = {snapshot.name for snapshot in kept}
        gone = [old.name for old in self.snapshots() if old.name not in names and kept[0].covers(old.positions)]
        for writer in self.writers():
            covered = min(snapshot.positions.get(writer, 0) for snapshot in kept)
            sequences = self.sequences(writer, 0)
            last = next(sequences, 0)
            for sequence in sequences:
                if last > covered:
                    break
                gone.append(log_name(writer, last))
                last = sequence
        failed = delete_all(self._store, gone)
        if failed:
            raise next(iter(failed.values()))
        return len(gone)
