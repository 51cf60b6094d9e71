"""A record in a writer's log: what it made visible, and what it took away, as one step.

Stored as `MAGIC | msgpack body | digest`, in one canonical form.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgpack

from objectcache.errors import IntegrityError, InvalidObjectNameError, LayoutError
from objectcache.integrity import Buffer, seal, unseal
from objectcache.layout import DIGEST_BYTES
from objectcache.names import MAX_SEQUENCE, check_writer, parse_segment_name
from objectcache.segment import SegmentHeader, decode_header

RECORD_MAGIC = b"OCKVLOG1"
FORMAT_VERSION = 1
"""Goes up with the segment format's too: who cannot read the headers in a record cannot read the record."""
MAX_RECORD_BYTES = 64 << 20

# Arrays are allocated as long as they claim to be before they are found to be shorter.
UNPACK_LIMITS = {"max_array_len": 1 << 20, "max_map_len": 64}

Seen = tuple[tuple[str, int], ...]
"""Writers, and up to which record each one's log had been followed."""

Removal = tuple[str, Seen]
"""Name of a segment that goes, and what had been seen by who removed it: its commit is in there somewhere."""


class LaterFormatError(IntegrityError):
    """Written by a later version of this package: whole, but not for us to judge."""


@dataclass(frozen=True)
class CommitEntry:
    """A segment that becomes visible, with the digest (16 bytes) of each layer's digest row."""

    header: SegmentHeader
    row_digests: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if len(self.row_digests) != len(self.header.layers):
            raise LayoutError(
                f"segment {self.header.name} has {len(self.header.layers)} layers, {len(self.row_digests)} row digests"
            )
        if set(map(len, self.row_digests)) - {DIGEST_BYTES}:
            raise LayoutError(f"segment {self.header.name}: row digests are {DIGEST_BYTES} bytes each")
        try:
            parse_segment_name(self.header.name)
        except InvalidObjectNameError as error:
            raise LayoutError(f"a segment cannot be committed under this name: {error}") from error

    @property
    def name(self) -> str:
        return self.header.name

    def to_wire(self) -> list[bytes]:
        return [self.header.encoded, b"".join(self.row_digests)]

    @classmethod
    def from_wire(cls, data: Any) -> CommitEntry:
        """Raises ValueError, TypeError, LayoutError or IntegrityError for what `to_wire` does not make."""
        header, packed = data
        if not isinstance(header, bytes) or not isinstance(packed, bytes):
            raise TypeError("a commit is a header and its row digests, both bytes")
        digests = tuple(packed[at : at + DIGEST_BYTES] for at in range(0, len(packed), DIGEST_BYTES))
        return cls(decode_header(header), digests)


@dataclass(frozen=True)
class Replacement:
    """Segments `old` give way to `new`, which the same record commits."""

    old: tuple[str, ...]
    new: tuple[str, ...]


@dataclass(frozen=True)
class LogRecord:
    """One step of `writer`: all of it is applied, or nothing.

    A segment is committed once, by whomever. `deletes` are names of segments, whoever committed them. `time_s` (Unix
    time) is for people: nothing is decided by it. `seen` goes with removals: logs are followed one after the other, so
    that a removal may be read before the commit it removes; from `seen` it follows how long that may still come.
    """

    writer: str
    sequence: int
    time_s: float
    commits: tuple[CommitEntry, ...] = ()
    deletes: tuple[str, ...] = ()
    replaces: tuple[Replacement, ...] = ()
    seen: Seen = ()

    def __post_init__(self) -> None:
        check_writer(self.writer)
        if not 0 < self.sequence <= MAX_SEQUENCE:
            raise LayoutError(f"log record {self.sequence} of {self.writer}: a log begins with record 1")
        committed = {entry.name for entry in self.commits}
        if len(committed) != len(self.commits):
            raise LayoutError("a log record commits a segment twice")
        for replacement in self.replaces:
            if not replacement.old or not committed.issuperset(replacement.new):
                raise LayoutError("a replacement has old segments, and new ones that the same record commits")
        for name, _ in self.removals():
            parse_segment_name(name)
            if name in committed:
                raise LayoutError(f"a log record both commits and removes {name}")
        for writer, position in self.seen:
            if not 0 <= position <= MAX_SEQUENCE:
                raise LayoutError(f"position {position} in the log of {check_writer(writer)} cannot be")

    def removals(self) -> Iterator[Removal]:
        """All segments that go."""
        for names in (self.deletes, *(replacement.old for replacement in self.replaces)):
            for name in names:
                yield name, self.seen

    @cached_property
    def encoded(self) -> bytes:
        """The stored object. Raises LayoutError when it is too large for one."""
        body = msgpack.packb(
            {
                "version": FORMAT_VERSION,
                "writer": self.writer,
                "sequence": self.sequence,
                "time_s": float(self.time_s),
                "commits": [entry.to_wire() for entry in self.commits],
                "deletes": list(self.deletes),
                "replaces": [[list(item.old), list(item.new)] for item in self.replaces],
                "seen": [list(item) for item in self.seen],
            }
        )
        data = seal(RECORD_MAGIC + body)
        if len(data) > MAX_RECORD_BYTES:
            raise LayoutError(f"a log record of {len(data)} bytes is beyond the limit of {MAX_RECORD_BYTES}")
        return data


def decode_record(data: Buffer, writer: str, sequence: int) -> LogRecord:
    """The record that `data` is, which was found as `sequence` of `writer`.

    Raises LaterFormatError for a record of a later version, IntegrityError for anything else that is not one.
    """
    what = f"log record {sequence} of {writer}"
    if len(data) > MAX_RECORD_BYTES:
        raise IntegrityError(f"{what} is beyond the limit of {MAX_RECORD_BYTES} bytes")
    body = unseal(data, what)
    if body[: len(RECORD_MAGIC)] != RECORD_MAGIC:
        raise IntegrityError(f"{what} is no log record: it begins with {bytes(body[:8])!r}")
    try:
        fields: dict[str, Any] = msgpack.unpackb(body[len(RECORD_MAGIC) :], **UNPACK_LIMITS)
        version = fields["version"]
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise LaterFormatError(f"{what} is of format version {version}, known here is {FORMAT_VERSION}")
        record = LogRecord(
            writer=fields["writer"],
            sequence=int(fields["sequence"]),
            time_s=fields["time_s"],
            commits=tuple(CommitEntry.from_wire(item) for item in fields["commits"]),
            deletes=tuple(fields["deletes"]),
            replaces=tuple(Replacement(tuple(old), tuple(new)) for old, new in fields["replaces"]),
            seen=tuple((check_writer(name), int(position)) for name, position in fields["seen"]),
        )
        encoded = record.encoded
    except (
        ValueError,
        KeyError,
        TypeError,
        OverflowError,
        msgpack.UnpackException,
        LayoutError,
        InvalidObjectNameError,
    ) as error:
        raise IntegrityError(f"{what} is malformed: {error!r}") from error
    if encoded != bytes(data):
        raise IntegrityError(f"{what} is not in canonical form")
    if (record.writer, record.sequence) != (writer, sequence):
        raise IntegrityError(f"{what} says that it is record {record.sequence} of {record.writer}")
    return record
