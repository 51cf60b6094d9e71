"""Where everything lies in a segment: arithmetic of digest rows, slices and pieces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import NamedTuple

from objectcache.errors import LayoutError

DIGEST_BYTES = 16
PIECE_BYTES = 1 << 20
"""What one piece digest covers, at most: large enough that hashing releases the interpreter lock."""
ALIGNMENT_BYTES = 4096
"""Slices of a layer start on this boundary of the segment."""


def align_up(value: int, alignment: int = ALIGNMENT_BYTES) -> int:
    return -(-value // alignment) * alignment


def piece_chunks(slice_bytes: int) -> int:
    """How many slices one piece digest covers: about 1 MiB of them, at least one."""
    return max(1, PIECE_BYTES // slice_bytes)


class Span(NamedTuple):
    """Chunks `first` to `stop` (exclusive, counted within the segment) that are verified as one.

    `piece` is the piece's number when the span is exactly that piece; otherwise each slice has its own digest.
    """

    first: int
    stop: int
    piece: int | None


@dataclass(frozen=True, slots=True)
class LayerRow:
    """The digest row of one layer of a segment: piece digests, then slice digests.

    Where a piece is a single slice the piece digests would repeat the slice digests, and are left out.
    """

    num_chunks: int
    slice_bytes: int

    @property
    def num_pieces(self) -> int:
        per_piece = piece_chunks(self.slice_bytes)
        return 0 if per_piece == 1 else -(-self.num_chunks // per_piece)

    @property
    def row_bytes(self) -> int:
        return (self.num_pieces + self.num_chunks) * DIGEST_BYTES

    def piece_range(self, piece: int) -> tuple[int, int]:
        per_piece = piece_chunks(self.slice_bytes)
        return piece * per_piece, min(self.num_chunks, (piece + 1) * per_piece)

    def digest_range(self, span: Span) -> tuple[int, int]:
        """Byte range within the row of the digests of a span."""
        if span.piece is not None:
            return span.piece * DIGEST_BYTES, (span.piece + 1) * DIGEST_BYTES
        return (self.num_pieces + span.first) * DIGEST_BYTES, (self.num_pieces + span.stop) * DIGEST_BYTES

    def spans(self, first: int, stop: int) -> Iterator[Span]:
        """Chunks [first, stop) cut at piece boundaries."""
        if not 0 <= first < stop <= self.num_chunks:
            raise LayoutError(f"chunks [{first}, {stop}) are outside the segment's {self.num_chunks}")
        per_piece = piece_chunks(self.slice_bytes)
        at = first
        while at < stop:
            piece = at // per_piece
            begin, end = piece * per_piece, min(self.num_chunks, (piece + 1) * per_piece)
            until = min(end, stop)
            whole = at == begin and until == end and per_piece > 1
            yield Span(at, until, piece if whole else None)
            at = until


@lru_cache(maxsize=1024)
def segment_geometry(num_chunks: int, slice_bytes: tuple[int, ...], header_bytes: int) -> SegmentGeometry:
    """The geometry, computed once: the segments of a deployment are mostly alike."""
    return SegmentGeometry(num_chunks, slice_bytes, header_bytes)


@dataclass(frozen=True)
class SegmentGeometry:
    """Where everything lies in a segment: header | per layer: digest row, slices 0 … n-1 | footer.

    A layer's slices start on a 4 KiB boundary and its row ends right there, so that the first m chunks of a layer
    with their row are one contiguous range, and the slices alone are page-aligned.
    """

    num_chunks: int
    slice_bytes: tuple[int, ...]
    header_bytes: int
    data_offsets: tuple[int, ...] = field(init=False, repr=False)
    footer_offset: int = field(init=False)

    def __post_init__(self) -> None:
        at = self.header_bytes
        offsets = []
        for size in self.slice_bytes:
            start = align_up(at + LayerRow(self.num_chunks, size).row_bytes)
            offsets.append(start)
            at = start + size * self.num_chunks
        object.__setattr__(self, "data_offsets", tuple(offsets))
        object.__setattr__(self, "footer_offset", at)

    @cached_property
    def rows(self) -> tuple[LayerRow, ...]:
        return tuple(LayerRow(self.num_chunks, size) for size in self.slice_bytes)

    @cached_property
    def _rows_until(self) -> tuple[int, ...]:
        """Bytes of the digest rows of the first n layers, by n."""
        return tuple(accumulate((row.row_bytes for row in self.rows), initial=0))

    def rows_bytes(self, first: int, stop: int) -> int:
        """Of the digest rows of the layers at positions [first, stop)."""
        return self._rows_until[stop] - self._rows_until[first]

    def row_offset(self, position: int) -> int:
        """Offset of the digest row of the layer at `position` (not the model's layer number)."""
        return self.data_offsets[position] - self.rows[position].row_bytes

    def slice_offset(self, position: int, chunk: int) -> int:
        return self.data_offsets[position] + chunk * self.slice_bytes[position]

    def layer_bytes(self, position: int) -> int:
        return self.num_chunks * self.slice_bytes[position]

    def padding_before_row(self, position: int) -> int:
        """Zero bytes between what comes before (header or layer) and this layer's row."""
        if position == 0:
            before = self.header_bytes
        else:
            before = self.data_offsets[position - 1] + self.layer_bytes(position - 1)
        return self.row_offset(position) - before
