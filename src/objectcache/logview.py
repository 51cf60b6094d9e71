"""All writers' logs in a store, as anybody may read them.

What happens to records that cannot be used:
- damaged: read once more, then counted, logged, and taken for empty. Its segments stay invisible, which is a miss;
  to wait for it would hide everything its writer does from then on.
- of a later format: its writer is not followed further until this software is newer. Taken for empty, its segments
  would be lost to everybody by the next snapshot made here.
- missing, with later ones there: trimmed, if a snapshot covers it (LogTrimmedError). Otherwise its writer is followed
  no further, and after some tries it counts as damaged: a lifecycle rule or a person took it away.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice

from objectcache.errors import CatalogError, IntegrityError, InvalidObjectNameError, ObjectNotFoundError
from objectcache.logrecord import LaterFormatError, LogRecord, decode_record
from objectcache.names import (
    LOG_PREFIX,
    SNAPSHOT_PREFIX,
    check_writer,
    log_name,
    parse_log_name,
    parse_snapshot_name,
)
from objectcache.snapshot import Snapshot, open_snapshot
from objectcache.stores import ExpectedObjects, Store

_log = logging.getLogger(__name__)

_PATIENCE = 8
"""How many times a missing record is waited for."""

_FLAT_RECORDS = 1000
"""What one LIST request brings. While all logs together have fewer, one request follows all of them."""
_FLAT_SKIPS = 60
"""After how many times of asking for each log by itself it is tried again whether they have become fewer."""


class LogTrimmedError(CatalogError):
    """Records after the positions asked for are gone, and a snapshot stands for them: start from that."""

    code = "LogTrimmed"
    status = 410


class LogView:
    """Follows logs. One thread at a time may follow. `damaged_records` counts what was taken for empty."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waits: dict[str, tuple[int, int]] = {}  # writer: missing record, how often it was
        self._lost: dict[str, int] = {}  # writer: the last record taken for empty because it was missing
        self._disregarded: set[str] = set()
        self._skip_flat = 0
        self.damaged_records = 0

    def follow(self, positions: Mapping[str, int]) -> Iterator[LogRecord]:
        """Records of all writers after `positions`, each writer's in sequence.

        Raises LogTrimmedError when the next record of a writer is only in a snapshot any more, StoreError.
        """
        logs = self._listed_at_once(positions) if self._store.far else None
        if logs is None:
            for writer in self.writers():
                position = positions.get(writer, 0)
                yield from self._follow(writer, position, self.sequences(writer, position), self._store.get)
        elif logs:
            names = [log_name(writer, sequence) for writer, sequences in logs.items() for sequence in sequences]
            with ExpectedObjects(self._store, names) as ahead:
                for writer, sequences in logs.items():
                    yield from self._follow(writer, positions.get(writer, 0), sequences, ahead.get)

    def _listed_at_once(self, positions: Mapping[str, int]) -> dict[str, list[int]] | None:
        """Sequences after `positions`, by one request for all logs. None when there are too many records for that."""
        if self._skip_flat:
            self._skip_flat -= 1
            return None
        infos = list(islice(self._store.list(LOG_PREFIX), _FLAT_RECORDS))
        if len(infos) == _FLAT_RECORDS:
            self._skip_flat = _FLAT_SKIPS
            return None
        logs: dict[str, list[int]] = {}
        for info in infos:
            with suppress(InvalidObjectNameError):  # not ours: whatever else somebody keeps there
                writer, sequence = parse_log_name(info.name)
                if sequence > positions.get(writer, 0):
                    logs.setdefault(writer, []).append(sequence)
        return logs

    def writers(self) -> Iterator[str]:
        """Everybody who has a log."""
        for prefix in self._store.list_prefixes(LOG_PREFIX):
            writer = prefix.removeprefix(LOG_PREFIX).removesuffix("/")
            with suppress(InvalidObjectNameError):  # not ours: whatever else somebody keeps there
                yield check_writer(writer)

    def _follow(
        self, writer: str, position: int, sequences: Iterable[int], get: Callable[[str], bytes]
    ) -> Iterator[LogRecord]:
        for sequence in sequences:
            while position < sequence:  # one by one: a listing that lags is no gap
                position += 1
                try:
                    record = self.read(writer, position, get)
                except ObjectNotFoundError:
                    if not self._is_lost(writer, position):
                        return
                    record = LogRecord(writer, position, 0.0)
                except LaterFormatError as error:
                    _log.warning("the log of writer %s waits for newer software: %s", writer, error)
                    return
                yield record

    def _is_lost(self, writer: str, position: int) -> bool:
        """Whether a missing record has been waited for often enough. Raises LogTrimmedError."""
        if self._lost.get(writer) != position - 1:
            self.check_trimmed(writer, position)
            missing, times = self._waits.get(writer, (position, 0))
            times = times if missing == position else 0
            if times < _PATIENCE:
                self._waits[writer] = position, times + 1
                _log.warning("the log of writer %s waits: record %d is missing", writer, position)
                return False
            _log.warning("record %d of writer %s, and those missing after it, are taken for empty", position, writer)
        self._lost[writer] = position
        self.damaged_records += 1
        return True

    def sequences(self, writer: str, after: int) -> Iterator[int]:
        """Sequences of the log's records after `after`, ascending."""
        prefix = f"{LOG_PREFIX}{writer}/"
        for info in self._store.list(prefix, start_after=log_name(writer, after)):
            with suppress(InvalidObjectNameError):
                yield parse_log_name(info.name).sequence

    def read(self, writer: str, sequence: int, get: Callable[[str], bytes] | None = None) -> LogRecord:
        """By `get` (default: the store's). Raises ObjectNotFoundError and LaterFormatError; what is damaged comes back
        empty.
        """
        name = log_name(writer, sequence)
        get = get or self._store.get
        for last in (False, True):
            try:
                return decode_record(get(name), writer, sequence)
            except LaterFormatError:
                raise
            except IntegrityError as error:
                if last:
                    self.damaged_records += 1
                    _log.warning("taken for empty, its segments stay invisible: %s", error)
        return LogRecord(writer, sequence, 0.0)

    def check_trimmed(self, writer: str, position: int) -> None:
        """Raises LogTrimmedError when a usable snapshot stands for the (missing) record `position`."""
        for snapshot in self.usable_snapshots():
            if snapshot.positions.get(writer, 0) >= position:
                raise LogTrimmedError(f"record {position} of writer {writer} is only in a snapshot any more")

    # -- snapshots --------------------------------------------------------------------------------

    def latest_snapshot(self) -> Snapshot | None:
        """The one to start from: the most advanced whose logs go on where it ends."""
        return next(iter(self.usable_snapshots()), None)

    def usable_snapshots(self) -> list[Snapshot]:
        """Snapshots whose logs go on where they end, most advanced first."""
        snapshots = self.snapshots()
        if not snapshots:
            return []
        first = {writer: next(self.sequences(writer, 0), 1) for writer in self.writers()}
        return [
            snapshot
            for snapshot in snapshots
            if all(sequence <= snapshot.positions.get(writer, 0) + 1 for writer, sequence in first.items())
        ]

    def snapshots(self) -> list[Snapshot]:
        """All whose head can be read, most advanced first: by how many records they stand for."""
        found = []
        for info in self._store.list(SNAPSHOT_PREFIX):
            if info.name in self._disregarded:
                continue
            try:
                parse_snapshot_name(info.name)
                found.append(open_snapshot(self._store, info.name))
            except (InvalidObjectNameError, ObjectNotFoundError):
                continue  # not a snapshot, or trimmed meanwhile
            except IntegrityError as error:
                self.disregard(info.name, error)
        return sorted(found, key=lambda snapshot: (-sum(snapshot.positions.values()), snapshot.name))

    def disregard(self, name: str, error: IntegrityError) -> None:
        """Do without the snapshot `name` from now on: it turned out to be damaged."""
        _log.warning("doing without snapshot %s: %s", name, error)
        self._disregarded.add(name)
