"""One segment out of several that follow each other in a chain: verified while they are read, written layer by layer.

What is held in memory is bounded, whatever the segments' size: one window of layers, and one layer of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, NamedTuple

from objectcache.errors import (
    IntegrityError,
    LayoutError,
    ObjectCacheError,
    ObjectChangedError,
    ObjectNotFoundError,
    RangeError,
    SegmentGoneError,
)
from objectcache.keys import KeyChain
from objectcache.layout import DIGEST_BYTES
from objectcache.segment import CommittedLayer, SegmentHeader, SegmentWriter, decode_header
from objectcache.stores import ObjectReader, Store

WINDOW_BYTES = 32 << 20
"""About what is read of all segments before it is written. Consecutive layers of a segment are one range."""
FAR_WINDOW_BYTES = 4 * WINDOW_BYTES
"""Where each range is a request."""


class JoinStoppedError(ObjectCacheError):
    """Whoever asked for it does not want it any more."""

    code = "JoinStopped"
    status = 503


@dataclass(frozen=True, slots=True)
class JoinSource:
    """A segment as its commit record has it: what its own header must say."""

    name: str
    num_chunks: int
    depth: int
    parent: bytes
    leaf: bytes
    header_bytes: int
    total_bytes: int
    packed_row_digests: bytes

    def agrees(self, header: SegmentHeader) -> bool:
        said = (header.name, header.num_chunks, header.depth, header.parent, header.leaf)
        sizes = (len(header.encoded), header.total_bytes, len(header.layers) * DIGEST_BYTES)
        return (self.name, self.num_chunks, self.depth, self.parent, self.leaf) == said and sizes == (
            self.header_bytes,
            self.total_bytes,
            len(self.packed_row_digests),
        )


@dataclass(frozen=True, slots=True)
class JoinOrder:
    """`sources`, each the parent of the next, become the segment `name`."""

    name: str
    sources: tuple[JoinSource, ...]

    def to_wire(self) -> dict[str, Any]:
        names = [item.name for item in fields(JoinSource)]
        return {"name": self.name, "sources": [[getattr(source, name) for name in names] for source in self.sources]}

    @classmethod
    def from_wire(cls, data: dict[str, Any]) -> JoinOrder:
        return cls(data["name"], tuple(JoinSource(*source) for source in data["sources"]))


class Joined(NamedTuple):
    """The new segment, whole in the store and not committed."""

    header: SegmentHeader
    row_digests: tuple[bytes, ...]


def join(store: Store, order: JoinOrder, pace: Callable[[int], None] = lambda read_bytes: None) -> Joined:
    """Read, verify and write. `pace(read_bytes)` is called after each window: it may wait, or raise to stop.

    Raises IntegrityError and SegmentGoneError that name the segment at fault, LayoutError for segments that do not
    follow each other, StoreError.
    """
    with ExitStack() as opened:
        readers = [opened.enter_context(_opened(store, source)) for source in order.sources]
        for source, reader in zip(order.sources, readers, strict=True):
            reader.prefetch(0, source.header_bytes)
        parts = [_Part(source, reader) for source, reader in zip(order.sources, readers, strict=True)]
        header = joined_header(order.name, [part.header for part in parts])
        with store.upload(header.name, size_bytes=header.total_bytes, if_absent=True) as upload:
            writer = SegmentWriter(header, upload.write)
            for first, stop in _windows(header, FAR_WINDOW_BYTES if store.far else WINDOW_BYTES):
                for part in parts:
                    part.announce(first, stop)
                for part in parts:
                    part.read(first, stop)
                pace(sum(len(part.window) for part in parts))
                for position in range(first, stop):
                    _write_layer(writer, parts, position, header.geometry.layer_bytes(position))
            row_digests = writer.finish()
            upload.publish()
    return Joined(header, row_digests)


def joined_header(name: str, headers: Sequence[SegmentHeader]) -> SegmentHeader:
    """Raises LayoutError unless each header's segment is the parent of the next one's, and laid out alike."""
    first = headers[0]
    for before, after in pairwise(headers):
        if after.parent != before.leaf or after.depth != before.depth + before.num_chunks:
            raise LayoutError(f"segment {after.name} does not follow {before.name}")
        if _kind(after) != _kind(first):
            raise LayoutError(f"segment {after.name} is not laid out as {first.name}")
    return SegmentHeader(
        name,
        *_kind(first),
        parent=first.parent,
        depth=first.depth,
        keys=KeyChain(b"".join(header.keys.data for header in headers)),
    )


def _kind(header: SegmentHeader) -> tuple[bytes, int, int, int, tuple[int, ...], tuple[int, ...]]:
    return (header.namespace, header.group, header.shard, header.chunk_tokens, header.layers, header.slice_bytes)


def _windows(header: SegmentHeader, window_bytes: int) -> Iterator[tuple[int, int]]:
    """Positions [first, stop) of layers that are read together."""
    first = held_bytes = 0
    for position in range(len(header.layers)):
        size = header.geometry.layer_bytes(position)
        if position > first and held_bytes + size > window_bytes:
            yield first, position
            first, held_bytes = position, 0
        held_bytes += size
    yield first, len(header.layers)


def _write_layer(writer: SegmentWriter, parts: Sequence[_Part], position: int, layer_bytes: int) -> None:
    data = memoryview(bytearray(layer_bytes))
    digests = []
    at = 0
    for part in parts:
        slices, slice_digests = part.verified(position)
        data[at : at + len(slices)] = slices
        digests.append(slice_digests)
        at += len(slices)
    writer.write_layer(data, b"".join(digests))


@contextmanager
def _opened(store: Store, source: JoinSource) -> Iterator[ObjectReader]:
    with _naming(source.name):
        reader = store.open(source.name, size_bytes=source.total_bytes)
    with reader:
        yield reader


@contextmanager
def _naming(segment: str) -> Iterator[None]:
    """What goes wrong inside is about that segment."""
    try:
        yield
    except ObjectNotFoundError as error:
        raise SegmentGoneError(f"segment {segment} is gone from the store", segment=segment) from error
    except (IntegrityError, RangeError, ObjectChangedError) as error:
        raise IntegrityError(f"segment {segment} is damaged: {error}", segment=segment) from error


class _Part:
    """One of the segments, open, with a window of its layers in memory."""

    def __init__(self, source: JoinSource, reader: ObjectReader) -> None:
        self._source, self._reader = source, reader
        with _naming(source.name):
            self.header = decode_header(reader.read(0, source.header_bytes))
            if not source.agrees(self.header):
                raise IntegrityError("its header is not what was committed")
        self._geometry = self.header.geometry
        self._begin = 0
        self.window = memoryview(b"")

    def _range(self, first: int, stop: int) -> tuple[int, int]:
        """Digest rows and slices of the layers at positions [first, stop): offsets in the object."""
        return self._geometry.row_offset(first), self._geometry.slice_offset(stop - 1, self.header.num_chunks)

    def announce(self, first: int, stop: int) -> None:
        begin, end = self._range(first, stop)
        self._reader.prefetch(begin, end - begin)

    def read(self, first: int, stop: int) -> None:
        self._begin, end = self._range(first, stop)
        self.window = memoryview(bytearray(end - self._begin))
        with _naming(self._source.name):
            self._reader.read_into(self._begin, self.window)

    def verified(self, position: int) -> tuple[memoryview, bytes]:
        """All slices of a layer in the window, and their digests. Raises IntegrityError."""
        geometry, digests = self._geometry, self._source.packed_row_digests
        row_at = geometry.row_offset(position) - self._begin
        slices_at = geometry.slice_offset(position, 0) - self._begin
        row = bytes(self.window[row_at:slices_at])
        slices = self.window[slices_at : slices_at + geometry.layer_bytes(position)]
        committed = digests[position * DIGEST_BYTES : (position + 1) * DIGEST_BYTES]
        layer = CommittedLayer(geometry, position, self.header.binding(position), self.header.leaf, committed)
        with _naming(self._source.name):
            layer.check_row(row)
            return slices, layer.check_slices(self.header.keys, slices, row)
