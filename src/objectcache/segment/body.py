"""Writing a segment as a stream of layers, and reading any chunk range of any layer, verified."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from objectcache.errors import IntegrityError, LayoutError, RangeError
from objectcache.integrity import Buffer, LayerBinding, layer_row, span_matches
from objectcache.layout import DIGEST_BYTES, SegmentGeometry, Span
from objectcache.segment.header import (
    HEADER_PREFIX_BYTES,
    SegmentHeader,
    decode_footer,
    decode_header,
    encode_footer,
    footer_bytes,
    header_length,
)


class SegmentWriter:
    """Encodes a segment as a stream, layer by layer as an engine produces them.

    `write` receives consecutive buffers; it must be done with each when it returns.
    """

    def __init__(self, header: SegmentHeader, write: Callable[[Buffer], None]) -> None:
        self._header = header
        self._write = write
        self._row_digests: list[bytes] = []
        write(header.encoded)

    def write_layer(self, data: Buffer, slice_digests: bytes | None = None) -> None:
        """The next layer's slices of all chunks, contiguous: num_chunks * slice_bytes bytes.

        `slice_digests`: theirs, where the slices have just been verified by them.
        """
        position = len(self._row_digests)
        header = self._header
        if position == len(header.layers):
            raise LayoutError(f"segment {header.name} has {position} layers, all of them written")
        view = memoryview(data).cast("B")
        geometry = header.geometry
        if len(view) != geometry.layer_bytes(position):
            raise LayoutError(
                f"layer {header.layers[position]} of segment {header.name} is "
                f"{geometry.layer_bytes(position)} bytes, got {len(view)}"
            )
        if slice_digests is not None and len(slice_digests) != header.num_chunks * DIGEST_BYTES:
            raise LayoutError(f"{header.num_chunks} slices have as many digests, not {len(slice_digests)} bytes")
        binding = header.binding(position)
        row = layer_row(binding, geometry.rows[position], header.keys, view, slice_digests)
        self._write(bytes(geometry.padding_before_row(position)) + row)
        self._write(view)
        self._row_digests.append(binding.row_digest(row, header.leaf, header.num_chunks))

    def finish(self) -> tuple[bytes, ...]:
        """Write the footer; returns the row digests, one per layer. Raises LayoutError while layers are missing."""
        if len(self._row_digests) != len(self._header.layers):
            raise LayoutError(
                f"segment {self._header.name} has {len(self._row_digests)} of {len(self._header.layers)} layers"
            )
        self._write(encode_footer(self._header, self._row_digests))
        return tuple(self._row_digests)


class ReadsRanges(Protocol):
    """What a reader needs of an open object. Both raise RangeError past its end."""

    def read(self, offset: int, length: int) -> bytes: ...
    def read_into(self, offset: int, out: memoryview) -> None: ...


@contextmanager
def _cut_short_is_damage() -> Iterator[None]:
    """Where a whole segment would go on, the end of the object is not a wrong request but a torn segment."""
    try:
        yield
    except RangeError as error:
        raise IntegrityError(f"a segment is cut short: {error}") from error


@dataclass(frozen=True)
class CommittedLayer:
    """One layer of a committed segment: enough to read and verify any range of its chunks without its header.

    `leaf` is the key of the segment's last chunk, `row_digest` what the commit record says of the layer's row.
    """

    geometry: SegmentGeometry
    position: int
    binding: LayerBinding
    leaf: bytes
    row_digest: bytes

    def read_row(self, source: ReadsRanges) -> bytes:
        """The layer's digest row. Raises IntegrityError when it is not the committed one."""
        with _cut_short_is_damage():
            row = source.read(self.geometry.row_offset(self.position), self.geometry.rows[self.position].row_bytes)
        self.check_row(row)
        return row

    def check_row(self, row: bytes) -> None:
        """Raises IntegrityError when `row` is not the committed one."""
        if self.binding.row_digest(row, self.leaf, self.geometry.num_chunks) != self.row_digest:
            raise IntegrityError("a segment's digest row is not the committed one")

    def read_chunks(
        self,
        source: ReadsRanges,
        first: int,
        stop: int,
        keys: Sequence[bytes],
        out: memoryview,
        row: bytes | None = None,
    ) -> None:
        """Slices [first, stop), verified, into `out` ((stop-first) * slice_bytes bytes); `keys` are theirs.

        Raises IntegrityError; `out` then holds bytes that must not be used.
        """
        size = self.geometry.rows[self.position].slice_bytes
        if len(out) != (stop - first) * size:
            raise LayoutError(f"{stop - first} slices of {size} bytes do not fill {len(out)} bytes")
        row = row or self.read_row(source)
        with _cut_short_is_damage():
            source.read_into(self.geometry.slice_offset(self.position, first), out)
        self.check_chunks(first, stop, keys, out, row)

    def check_chunks(self, first: int, stop: int, keys: Sequence[bytes], out: memoryview, row: bytes) -> None:
        """`out` holds what was read of slices [first, stop). Raises IntegrityError unless it is what was committed.

        `row` is the layer's digest row, checked.
        """
        layer = self.geometry.rows[self.position]
        size = layer.slice_bytes
        if len(keys) != stop - first:
            raise LayoutError(f"{stop - first} slices have as many keys, not {len(keys)}")
        for span in layer.spans(first, stop):
            begin, end = layer.digest_range(span)
            part = out[(span.first - first) * size : (span.stop - first) * size]
            span_keys = keys[span.first - first : span.stop - first]
            if not span_matches(self.binding, span, size, span_keys, row[begin:end], part):
                raise IntegrityError(f"chunks {span.first} to {span.stop - 1} of a segment are not the committed ones")

    def check_slices(self, keys: Sequence[bytes], data: memoryview, row: bytes) -> bytes:
        """`data` holds all slices of the layer: each is verified by its own digest, bound to its own key.

        Returns the digests of the slices. `row` is the layer's digest row, checked. Raises IntegrityError.
        """
        layer = self.geometry.rows[self.position]
        span = Span(0, layer.num_chunks, None)
        begin, end = layer.digest_range(span)
        if not span_matches(self.binding, span, layer.slice_bytes, keys, row[begin:end], data):
            raise IntegrityError("slices of a segment are not the committed ones")
        return row[begin:end]


class SegmentReader:
    """Reads and verifies chunk ranges of one segment by its own header.

    `row_digests` come from the commit record, or (None) from the segment's own footer.
    """

    def __init__(self, source: ReadsRanges, header: SegmentHeader, row_digests: Sequence[bytes] | None = None) -> None:
        self._source = source
        self.header = header
        if row_digests is None:
            with _cut_short_is_damage():
                footer = source.read(header.geometry.footer_offset, footer_bytes(len(header.layers)))
            row_digests = decode_footer(footer, header)
        if len(row_digests) != len(header.layers):
            raise IntegrityError(
                f"segment {header.name} has {len(header.layers)} layers, and {len(row_digests)} row digests"
            )
        self.row_digests = tuple(row_digests)

    @classmethod
    def open(cls, source: ReadsRanges, name: str | None = None) -> SegmentReader:
        """Open by the segment's own header and footer. Raises IntegrityError when it is not whole, or not `name`."""
        with _cut_short_is_damage():
            encoded = source.read(0, header_length(source.read(0, HEADER_PREFIX_BYTES)))
        header = decode_header(encoded)
        if name is not None and header.name != name:
            raise IntegrityError(f"object {name} holds segment {header.name}")
        return cls(source, header)

    def verify(self) -> None:
        """Read everything. Raises IntegrityError when any of it is not as committed."""
        header, geometry = self.header, self.header.geometry
        out = memoryview(bytearray(max(map(geometry.layer_bytes, range(len(header.layers))))))
        for position in range(len(header.layers)):
            self.read_chunks(position, 0, header.num_chunks, out[: geometry.layer_bytes(position)])

    def read_chunks(self, position: int, first: int, stop: int, out: memoryview) -> None:
        """Slices [first, stop) of the layer at `position`, verified, into `out` ((stop-first) * slice_bytes bytes).

        Raises IntegrityError; `out` then holds bytes that must not be used.
        """
        self._layer(position).read_chunks(self._source, first, stop, self.header.keys[first:stop], out)

    def check_layer(self, position: int, data: memoryview) -> None:
        """`data` holds all slices of the layer at `position`. Raises IntegrityError unless they are as committed."""
        layer = self._layer(position)
        layer.check_chunks(0, self.header.num_chunks, self.header.keys, data, layer.read_row(self._source))

    def _layer(self, position: int) -> CommittedLayer:
        header = self.header
        return CommittedLayer(
            header.geometry, position, header.binding(position), header.leaf, self.row_digests[position]
        )
