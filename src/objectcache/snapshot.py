"""A snapshot of the catalog, as an object: every visible segment at given positions of all logs.

    MAGIC | frame: head | frames: commits … | frames: removed … | frame: end

A frame is `u32 length | msgpack [number, kind, content] | digest`. Reading and writing take memory for a few frames,
however long the snapshot is. Without its end, a snapshot is torn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from struct import Struct
from typing import Any, NamedTuple

import msgpack

from objectcache.errors import IntegrityError, InvalidObjectNameError, LayoutError, RangeError
from objectcache.integrity import Buffer, seal, unseal
from objectcache.logrecord import UNPACK_LIMITS, CommitEntry, LaterFormatError, Removal
from objectcache.names import check_writer, parse_segment_name
from objectcache.stores import ObjectReader, ObjectUpload, Store

SNAPSHOT_MAGIC = b"OCKVSNAP"
FORMAT_VERSION = 1
MAX_FRAME_BYTES = 64 << 20

_FRAME_BYTES = 1 << 20
_READ_BYTES = 4 << 20
_LENGTH = Struct("<I")
_NAMES_PER_FRAME = 8192

_HEAD, _COMMITS, _REMOVED, _END = "head", "commits", "removed", "end"


class SnapshotPart(NamedTuple):
    """Some of a snapshot's content. `removed` are segments whose commits may yet come, and are then void."""

    commits: tuple[CommitEntry, ...]
    removed: tuple[Removal, ...]


class PackedPart(NamedTuple):
    """The same, with commits as `CommitEntry.to_wire` makes them."""

    commits: list[list[bytes]]
    removed: tuple[Removal, ...]


@dataclass(frozen=True)
class Snapshot:
    """A stored snapshot, by its head. `positions` maps writers to the last record of theirs that it includes."""

    store: Store
    name: str
    positions: Mapping[str, int]

    def covers(self, positions: Mapping[str, int]) -> bool:
        """Whether it includes every record up to `positions`."""
        return all(self.positions.get(writer, 0) >= position for writer, position in positions.items())

    def parts(self) -> Iterator[SnapshotPart]:
        """Its content, once through. Raises IntegrityError, at the end at the latest, when it is damaged or torn;
        what was yielded before is then incomplete.
        """
        for part in self.packed_parts():
            try:
                commits = tuple(map(CommitEntry.from_wire, part.commits))
            except (ValueError, TypeError, LayoutError, InvalidObjectNameError) as error:
                raise self._malformed(error) from error
            yield SnapshotPart(commits, part.removed)

    def packed_parts(self) -> Iterator[PackedPart]:
        """As `parts`, with commits as they are stored: for those who hand them on. Their frames' digests are right, and
        nothing else of them is looked at.
        """
        commits = removed = 0
        with self.store.open(self.name) as reader:
            frames = _Frames(reader, self.name)
            frames.next(_HEAD)
            while True:
                kind, content = frames.next()
                try:
                    if kind == _COMMITS:
                        part = PackedPart(list(content), ())
                    elif kind == _REMOVED:
                        part = PackedPart([], tuple(_removal(item) for item in content))
                    else:
                        break
                except (ValueError, TypeError, InvalidObjectNameError) as error:
                    raise self._malformed(error) from error
                commits += len(part.commits)
                removed += len(part.removed)
                yield part
            if kind != _END or content != [commits, removed] or not frames.at_end:
                raise IntegrityError(f"snapshot {self.name} does not end as it should")

    def _malformed(self, error: Exception) -> IntegrityError:
        return IntegrityError(f"snapshot {self.name} is malformed: {error!r}")


def open_snapshot(store: Store, name: str) -> Snapshot:
    """Raises ObjectNotFoundError, IntegrityError, LaterFormatError (an IntegrityError), StoreError."""
    with store.open(name) as reader:
        _, content = _Frames(reader, name, _READ_BYTES // 64).next(_HEAD)
    try:
        version, *rest = content
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise LaterFormatError(f"snapshot {name} is of format version {version}, known here is {FORMAT_VERSION}")
        (positions,) = rest
        return Snapshot(store, name, {check_writer(writer): int(position) for writer, position in positions})
    except (ValueError, TypeError, InvalidObjectNameError) as error:
        raise IntegrityError(f"the head of snapshot {name} is malformed: {error!r}") from error


class SnapshotWriter:
    """Streams a snapshot into an upload, which the caller publishes after `finish`."""

    def __init__(self, upload: ObjectUpload, positions: Mapping[str, int]) -> None:
        self._upload = upload
        self._frames = 0
        self._pending: list[list[bytes]] = []
        self._pending_bytes = 0
        self._commits = 0
        upload.write(SNAPSHOT_MAGIC)
        self._frame(_HEAD, [FORMAT_VERSION, [list(item) for item in sorted(positions.items())]])

    def add(self, wire: list[bytes]) -> None:
        """A commit, as `CommitEntry.to_wire` makes it."""
        self._pending.append(wire)
        self._pending_bytes += sum(map(len, wire))
        self._commits += 1
        if self._pending_bytes >= _FRAME_BYTES:
            self._flush()

    def finish(self, removed: Iterable[Removal]) -> None:
        self._flush()
        names = sorted(removed)
        for at in range(0, len(names), _NAMES_PER_FRAME):
            self._frame(_REMOVED, [[name, list(map(list, seen))] for name, seen in names[at : at + _NAMES_PER_FRAME]])
        self._frame(_END, [self._commits, len(names)])

    def _flush(self) -> None:
        if self._pending:
            self._frame(_COMMITS, self._pending)
            self._pending, self._pending_bytes = [], 0

    def _frame(self, kind: str, content: list[Any]) -> None:
        body = seal(msgpack.packb([self._frames, kind, content]))
        self._upload.write(_LENGTH.pack(len(body)) + body)
        self._frames += 1


class _Frames:
    """Reads frames one after the other, in large pieces."""

    def __init__(self, reader: ObjectReader, name: str, read_bytes: int = _READ_BYTES) -> None:
        self._reader = reader
        self._name = name
        self._read_bytes = read_bytes
        self._buffer = b""
        self._at = 0
        self._offset = 0
        self._number = 0
        if self._take(len(SNAPSHOT_MAGIC)) != SNAPSHOT_MAGIC:
            raise IntegrityError(f"{name} is not a snapshot")

    @property
    def at_end(self) -> bool:
        return self._at == len(self._buffer) and self._offset == self._reader.info.size_bytes

    def next(self, expected: str | None = None) -> tuple[str, Any]:
        """Kind and content of the next frame. Raises IntegrityError when there is none, or not of that kind."""
        (length,) = _LENGTH.unpack(self._take(_LENGTH.size))
        if length > MAX_FRAME_BYTES:
            raise IntegrityError(f"snapshot {self._name}: a frame of {length} bytes is beyond the limit")
        body = unseal(self._take(length), f"frame {self._number} of snapshot {self._name}")
        try:
            number, kind, content = msgpack.unpackb(body, **UNPACK_LIMITS)
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise IntegrityError(f"snapshot {self._name} is malformed: {error!r}") from error
        if number != self._number or (expected is not None and kind != expected):
            raise IntegrityError(f"snapshot {self._name}: frame {self._number} is another, {number} ({kind})")
        self._number += 1
        return kind, content

    def _take(self, length: int) -> Buffer:
        """The next `length` bytes."""
        missing = length - (len(self._buffer) - self._at)
        if missing > 0:
            left = self._reader.info.size_bytes - self._offset
            if missing > left:
                raise IntegrityError(f"snapshot {self._name} is torn")
            size = min(left, max(missing, self._read_bytes))
            try:
                more = self._reader.read(self._offset, size)
            except RangeError as error:
                raise IntegrityError(f"snapshot {self._name} is shorter than its size") from error
            self._buffer = self._buffer[self._at :] + more
            self._offset += size
            self._at = 0
        self._at += length
        return self._buffer[self._at - length : self._at]


def _removal(item: Any) -> Removal:
    name, seen = item
    parse_segment_name(name)
    return name, tuple((check_writer(writer), int(position)) for writer, position in seen)


def still_open(removal: Removal, positions: Mapping[str, int]) -> Removal | None:
    """What is left of a removal at `positions`, or None when its segment's commit cannot come any more."""
    name, seen = removal
    left = tuple((writer, position) for writer, position in seen if position > positions.get(writer, 0))
    return (name, left) if left else None
