"""What is looked up to explain: namespaces, segments' own headers, uploads that nobody committed, and the logs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from objectcache.cache.explain.words import short
from objectcache.catalog import Catalog
from objectcache.catalog.follower import read_namespace
from objectcache.errors import (
    IntegrityError,
    InvalidObjectNameError,
    NamespaceMismatchError,
    ObjectNotFoundError,
    RangeError,
    RequestError,
    StoreError,
)
from objectcache.keys import KEY_BYTES, Namespace
from objectcache.logrecord import LaterFormatError, LogRecord
from objectcache.logview import LogView
from objectcache.names import NAMESPACE_PREFIX, SEGMENT_PREFIX, parse_namespace_name, parse_segment_name
from objectcache.segment import HEADER_PREFIX_BYTES, SegmentHeader, decode_header, header_length
from objectcache.stores import ObjectReader, Store

LEAST_DIGITS = 8
_DIGITS = re.compile(rf"[0-9a-f]{{{LEAST_DIGITS},{2 * KEY_BYTES}}}")


def check_digits(text: str) -> str:
    """How a key or digest begins, in lower-case hex. Raises RequestError."""
    digits = text.strip().lower()
    if not _DIGITS.fullmatch(digits):
        raise RequestError(
            f"{text[:80]!r} is neither a key nor a digest: at least {LEAST_DIGITS} and at most {2 * KEY_BYTES} hex "
            "digits, as `objectcache ls` shows them"
        )
    return digits


def read_header(reader: ObjectReader) -> SegmentHeader:
    """What a segment says of itself. Raises IntegrityError for an object that is none, StoreError."""
    try:
        return decode_header(reader.read(0, header_length(reader.read(0, HEADER_PREFIX_BYTES))))
    except RangeError as error:
        raise IntegrityError(f"a segment is cut short: {error}") from error


@dataclass(frozen=True)
class Orphan:
    """A whole segment in the store that the catalog does not show. `modified_s` is Unix time."""

    header: SegmentHeader
    modified_s: float


class Removed(NamedTuple):
    """A segment that the logs tell of. Times are Unix time."""

    name: str
    committed_s: float
    removed_s: float
    remover: str


class Stored:
    """One store and a catalog that is up to its logs."""

    def __init__(self, store: Store, catalog: Catalog) -> None:
        self.store = store
        self.catalog = catalog

    # -- namespaces -------------------------------------------------------------------------------

    def namespaces(self) -> dict[bytes, Namespace | None]:
        """All that are known here by digest; None for one that segments belong to but that cannot be read."""
        known: dict[bytes, Namespace | None] = {found.digest: found for found in self.catalog.namespaces()}
        written = []
        for info in self.store.list(NAMESPACE_PREFIX):
            with suppress(InvalidObjectNameError):  # whatever else somebody keeps there
                written.append(parse_namespace_name(info.name))
        for digest in [*written, *self.catalog.unread_namespaces()]:
            if digest not in known:
                known[digest] = self._read(digest)
        return known

    def _read(self, digest: bytes) -> Namespace | None:
        try:
            return read_namespace(self.store, digest)
        except (ObjectNotFoundError, IntegrityError):
            return None

    def digests_beginning(self, digits: str) -> list[bytes]:
        return sorted(digest for digest in self.namespaces() if digest.hex().startswith(digits))

    def namespace(self, digest: bytes) -> Namespace:
        """Raises NamespaceMismatchError for one whose description is gone or damaged."""
        found = self.catalog.namespace(digest) or self._read(digest)
        if found is None:
            raise NamespaceMismatchError(
                f"namespace {short(digest)} has segments here, but its description is gone or damaged: nothing of it "
                "can match until an engine stores under it again"
            )
        return found

    # -- segments ---------------------------------------------------------------------------------

    def header(self, name: str) -> SegmentHeader:
        """Raises ObjectNotFoundError, IntegrityError, StoreError."""
        with self.store.open(name) as reader:
            return read_header(reader)

    def is_there(self, name: str) -> bool:
        try:
            self.store.head(name)
        except ObjectNotFoundError:
            return False
        return True

    def orphans(self, wanted: Callable[[SegmentHeader], bool]) -> list[Orphan]:
        """Uploads that were finished, are `wanted`, and that no log record names: neither committed nor removed."""
        found: dict[str, Orphan] = {}
        for info in self.store.list(SEGMENT_PREFIX):
            try:
                parse_segment_name(info.name)
                if self.catalog.segment_named(info.name) is not None:
                    continue
                header = self.header(info.name)
            except (InvalidObjectNameError, IntegrityError, StoreError):
                continue  # no segment, or gone or unreadable: then it explains nothing either
            if wanted(header):
                found[info.name] = Orphan(header, info.modified_s)
        for record in self.log_records() if found else ():
            for name in [*(entry.name for entry in record.commits), *(name for name, _ in record.removals())]:
                found.pop(name, None)
        return list(found.values())

    # -- the logs ---------------------------------------------------------------------------------

    def log_records(self) -> Iterator[LogRecord]:
        """All records that are left: what snapshots stand for is trimmed after a while."""
        logs = LogView(self.store)
        for writer in logs.writers():
            for sequence in logs.sequences(writer, 0):
                with suppress(ObjectNotFoundError, LaterFormatError):
                    yield logs.read(writer, sequence)

    def removed(self, wanted: Callable[[SegmentHeader], bool]) -> list[Removed]:
        """Segments that were `wanted` and are removed, as far as the logs that are left tell. Not those that were
        merged: what they held went on in others.
        """
        committed: dict[str, float] = {}
        removals: dict[str, tuple[float, str]] = {}
        for record in self.log_records():
            committed |= {entry.name: record.time_s for entry in record.commits if wanted(entry.header)}
            removals |= dict.fromkeys(record.deletes, (record.time_s, record.writer))
        return [Removed(name, time_s, *removals[name]) for name, time_s in committed.items() if name in removals]
