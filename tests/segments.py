"""Segments in memory, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np

from objectcache.errors import RangeError
from objectcache.integrity import Buffer
from objectcache.keys import KEY_BYTES, KeyChain
from objectcache.segment import SegmentHeader, SegmentReader, SegmentWriter


class BytesSource:
    """An open object whose bytes are `data`."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, offset: int, length: int) -> bytes:
        if offset + length > len(self._data):
            raise RangeError(f"[{offset}, {offset + length}) of {len(self._data)} bytes")
        return self._data[offset : offset + length]

    def read_into(self, offset: int, out: memoryview) -> None:
        out[:] = self.read(offset, len(out))


def random_chain(seed: int, length: int) -> KeyChain:
    return KeyChain(Random(seed).randbytes(length * KEY_BYTES))


def make_header(
    *,
    num_chunks: int = 3,
    layers: Sequence[int] = (0, 1),
    slice_bytes: Sequence[int] = (40, 40),
    name: str = "segments/w/0",
    group: int = 0,
    shard: int = 0,
    depth: int = 5,
    keys: KeyChain | None = None,
) -> SegmentHeader:
    return SegmentHeader(
        name=name,
        namespace=b"N" * KEY_BYTES,
        group=group,
        shard=shard,
        chunk_tokens=16,
        layers=tuple(layers),
        slice_bytes=tuple(slice_bytes),
        parent=b"P" * KEY_BYTES if depth else b"N" * KEY_BYTES,
        depth=depth,
        keys=keys or random_chain(1, num_chunks),
    )


def random_layers(header: SegmentHeader, seed: int = 0) -> list[bytes]:
    """Slices of all chunks, per layer, contiguous."""
    random = np.random.default_rng(seed)
    return [random.bytes(size * header.num_chunks) for size in header.slice_bytes]


def encode(header: SegmentHeader, layers: Sequence[Buffer]) -> tuple[bytes, tuple[bytes, ...]]:
    """The stored object, and its row digests."""
    out = bytearray()
    writer = SegmentWriter(header, out.extend)
    for layer in layers:
        writer.write_layer(layer)
    digests = writer.finish()
    return bytes(out), digests


def read(reader: SegmentReader, position: int, first: int = 0, stop: int | None = None) -> bytes:
    """Verified slices [first, stop) of the layer at `position`."""
    stop = reader.header.num_chunks if stop is None else stop
    out = bytearray((stop - first) * reader.header.slice_bytes[position])
    reader.read_chunks(position, first, stop, memoryview(out))
    return bytes(out)


def read_all(reader: SegmentReader) -> list[bytes]:
    return [read(reader, position) for position in range(len(reader.header.layers))]
