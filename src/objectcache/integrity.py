"""Digests: the only place that computes or checks them.

xxh3-128, 16 bytes. Each digest is bound, through the hash's seed, to the chunk key (which names the whole prefix and,
through its root, the namespace), group, shard and layer of its data, so that a self-consistent wrong object does not
verify. It guards against corruption and mix-ups, not against someone who may write: permission to write is
permission to poison.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

from xxhash import xxh3_64_intdigest, xxh3_128_digest

from objectcache.errors import IntegrityError
from objectcache.layout import DIGEST_BYTES, LayerRow, Span

Buffer = bytes | bytearray | memoryview

_BINDING = Struct("<HHHBxI")
_SLICE, _PIECE, _ROW = 0, 1, 2


class LayerBinding:
    """What digests of one layer of one shard are bound to, apart from the key."""

    __slots__ = ("_group", "_layer", "_shard")

    def __init__(self, group: int, shard: int, layer: int) -> None:
        self._group, self._shard, self._layer = group, shard, layer

    def _seed(self, key: bytes, kind: int, count: int) -> int:
        return xxh3_64_intdigest(key + _BINDING.pack(self._group, self._shard, self._layer, kind, count))

    def slice_digest(self, data: Buffer, key: bytes) -> bytes:
        return xxh3_128_digest(data, self._seed(key, _SLICE, 1))

    def piece_digest(self, data: Buffer, last_key: bytes, count: int) -> bytes:
        """Digest of `count` consecutive slices, the last of which has `last_key`."""
        return xxh3_128_digest(data, self._seed(last_key, _PIECE, count))

    def row_digest(self, row: Buffer, last_key: bytes, count: int) -> bytes:
        """Digest of a digest row of a segment of `count` chunks ending in `last_key`."""
        return xxh3_128_digest(row, self._seed(last_key, _ROW, count))


def layer_row(
    binding: LayerBinding, row: LayerRow, keys: Sequence[bytes], data: memoryview, slice_digests: bytes | None = None
) -> bytes:
    """The digest row of a whole layer. `data` holds all its slices, contiguous; `keys` are the segment's.

    `slice_digests`, where the slices have just been verified by them, are taken as they are: they do not depend on the
    segment that a slice is in.
    """
    pieces, slices = [], []
    size = row.slice_bytes
    for span in row.spans(0, row.num_chunks):  # both digests of a piece while it is in the processor's cache
        if row.num_pieces:
            piece = data[span.first * size : span.stop * size]
            pieces.append(binding.piece_digest(piece, keys[span.stop - 1], span.stop - span.first))
        for chunk in range(span.first, span.stop) if slice_digests is None else ():
            slices.append(binding.slice_digest(data[chunk * size : (chunk + 1) * size], keys[chunk]))
    return b"".join(pieces + slices) if slice_digests is None else b"".join(pieces) + slice_digests


def span_matches(
    binding: LayerBinding, span: Span, slice_bytes: int, keys: Sequence[bytes], digests: Buffer, data: Buffer
) -> bool:
    """Whether `data` (the span's slices) is what `digests` say; `keys[i]` is the key of the span's i-th chunk."""
    count = span.stop - span.first
    view = memoryview(data)
    if len(view) != count * slice_bytes or len(keys) != count:
        return False
    if span.piece is not None:
        return binding.piece_digest(view, keys[-1], count) == digests
    if len(digests) != count * DIGEST_BYTES:
        return False
    return all(
        binding.slice_digest(view[i * slice_bytes : (i + 1) * slice_bytes], keys[i])
        == digests[i * DIGEST_BYTES : (i + 1) * DIGEST_BYTES]
        for i in range(count)
    )


_FRAME_SEED = 0x4F424A4543544B56


def record_digest(data: Buffer) -> bytes:
    """Digest of a self-contained record (header, footer, commit record): 16 bytes."""
    return xxh3_128_digest(data, _FRAME_SEED)


def seal(data: bytes) -> bytes:
    """`data` followed by its record digest."""
    return data + record_digest(data)


def unseal(data: Buffer, what: str) -> memoryview:
    """What `seal` was given. Raises IntegrityError when the digest says otherwise."""
    view = memoryview(data)
    if len(view) < DIGEST_BYTES or record_digest(view[:-DIGEST_BYTES]) != view[-DIGEST_BYTES:]:
        raise IntegrityError(f"{what} is damaged: its digest does not match")
    return view[:-DIGEST_BYTES]
