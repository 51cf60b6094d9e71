"""What the catalog remembers of a segment: all but its keys, which are the index itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from struct import Struct
from typing import Any, NamedTuple

import msgpack
import numpy as np
import numpy.typing as npt

from objectcache.errors import CatalogError
from objectcache.integrity import Buffer
from objectcache.keys import KEY_BYTES
from objectcache.layout import DIGEST_BYTES, SegmentGeometry, segment_geometry
from objectcache.segment import SegmentHeader

_PART = Struct(">BH")
_U64 = Struct(">Q")
_INDEX_BITS = 16
_INDEX_MASK = (1 << _INDEX_BITS) - 1

PART_BYTES = _PART.size
PLACE_BYTES = _U64.size
ROW_BYTES = PART_BYTES + KEY_BYTES + PLACE_BYTES
"""An index entry (key and place) after its part's key."""
ROW = np.dtype([("part", f"V{PART_BYTES}"), ("entry", f"V{KEY_BYTES + PLACE_BYTES}")])


class DamagedCatalogError(CatalogError):
    """The catalog's files are not what they should be: it must be built anew."""


@dataclass(frozen=True)
class SegmentRecord:
    """A visible segment. `id` is this catalog's own; the other fields are as in `SegmentHeader`.

    `header_bytes` and `total_bytes` are sizes of the stored object; `leaf` is the key of its last chunk.
    """

    id: int
    name: str
    namespace: bytes
    group: int
    shard: int
    chunk_tokens: int
    layers: tuple[int, ...]
    slice_bytes: tuple[int, ...]
    num_chunks: int
    depth: int
    parent: bytes
    leaf: bytes
    header_bytes: int
    total_bytes: int
    packed_row_digests: bytes

    @classmethod
    def of(cls, id: int, header: SegmentHeader, row_digests: Sequence[bytes]) -> SegmentRecord:
        return cls(
            id=id,
            name=header.name,
            namespace=header.namespace,
            group=header.group,
            shard=header.shard,
            chunk_tokens=header.chunk_tokens,
            layers=header.layers,
            slice_bytes=header.slice_bytes,
            num_chunks=header.num_chunks,
            depth=header.depth,
            parent=header.parent,
            leaf=header.leaf,
            header_bytes=len(header.encoded),
            total_bytes=header.total_bytes,
            packed_row_digests=b"".join(row_digests),
        )

    @cached_property
    def row_digests(self) -> tuple[bytes, ...]:
        """The digest of each layer's digest row, from the commit record."""
        data = self.packed_row_digests
        return tuple(data[at : at + DIGEST_BYTES] for at in range(0, len(data), DIGEST_BYTES))

    @cached_property
    def geometry(self) -> SegmentGeometry:
        return segment_geometry(self.num_chunks, self.slice_bytes, self.header_bytes)

    def encode(self) -> bytes:
        """Everything but the id, which is the database's key. Layers and slice sizes are mostly regular: as runs."""
        data: bytes = msgpack.packb(
            (
                self.name,
                self.namespace,
                self.group,
                self.shard,
                self.chunk_tokens,
                _pack_layers(self.layers, self.slice_bytes),
                self.num_chunks,
                self.depth,
                self.parent if self.depth else b"",
                self.leaf,
                self.header_bytes,
                self.total_bytes,
                self.packed_row_digests,
            )
        )
        return data

    @classmethod
    def decode(cls, id: int, data: Buffer) -> SegmentRecord:
        """The inverse of `encode`. Raises DamagedCatalogError for anything else."""
        try:
            name, namespace, group, shard, tokens, layout, *rest = msgpack.unpackb(data)
            chunks, depth, parent, leaf, header_bytes, total_bytes, digests = rest
            layers, sizes = _unpack_layers(layout)
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise DamagedCatalogError(f"the catalog's record of segment {id} is malformed: {error!r}") from error
        record = object.__new__(cls)
        # A frozen dataclass sets its fields one by one, which takes longer than all the rest; matching makes many.
        record.__dict__.update(
            id=id,
            name=name,
            namespace=namespace,
            group=group,
            shard=shard,
            chunk_tokens=tokens,
            layers=layers,
            slice_bytes=sizes,
            num_chunks=chunks,
            depth=depth,
            parent=parent if depth else namespace,
            leaf=leaf,
            header_bytes=header_bytes,
            total_bytes=total_bytes,
            packed_row_digests=digests,
        )
        return record


class Run(NamedTuple):
    """Chunks [first, stop) of a segment, counted within it, consecutive in a chain."""

    segment: SegmentRecord
    first: int
    stop: int


def part_key(group: int, shard: int) -> bytes:
    """Under which the index holds a part's entries: u8 group, u16 shard."""
    return _PART.pack(group, shard)


def pack_id(id: int) -> bytes:
    return _U64.pack(id)


def unpack_id(data: Buffer) -> int:
    return int.from_bytes(data, "big")


def pack_place(id: int, index: int) -> bytes:
    """Where a chunk is: 48 bits of segment id, 16 bits of index in the segment."""
    return _U64.pack(id << _INDEX_BITS | index)


def unpack_place(data: Buffer) -> tuple[int, int]:
    place = int.from_bytes(data, "big")
    return place >> _INDEX_BITS, place & _INDEX_MASK


def split_entry(entry: Buffer) -> tuple[bytes, int, int]:
    """Chunk key, segment id and index in the segment of an index entry."""
    id, index = unpack_place(entry[KEY_BYTES:])
    return bytes(entry[:KEY_BYTES]), id, index


def chunk_entries(id: int, header: SegmentHeader) -> list[bytes]:
    """All index entries of a segment: key and place."""
    data, base = header.keys.data, id << _INDEX_BITS
    pack = _U64.pack
    return [
        data[index * KEY_BYTES : (index + 1) * KEY_BYTES] + pack(base + index) for index in range(header.num_chunks)
    ]


def entry_rows(id: int, header: SegmentHeader) -> npt.NDArray[np.uint8]:
    """The same as `chunk_entries`, each after its part's key: (chunks, ROW_BYTES)."""
    rows = np.empty((header.num_chunks, ROW_BYTES), np.uint8)
    rows[:, :PART_BYTES] = np.frombuffer(part_key(header.group, header.shard), np.uint8)
    rows[:, PART_BYTES:-PLACE_BYTES] = np.frombuffer(header.keys.data, np.uint8).reshape(-1, KEY_BYTES)
    places = np.arange(header.num_chunks, dtype=">u8") + (id << _INDEX_BITS)
    rows[:, -PLACE_BYTES:] = places.astype(">u8").view(np.uint8).reshape(-1, PLACE_BYTES)
    return rows


def row_ids(rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """The segment ids of such rows."""
    places = np.ascontiguousarray(rows[:, -PLACE_BYTES:]).view(">u8").reshape(-1)
    return places.astype(np.uint64) >> np.uint64(_INDEX_BITS)


@lru_cache(maxsize=1024)
def _pack_layers(layers: tuple[int, ...], slice_bytes: tuple[int, ...]) -> bytes:
    packed: bytes = msgpack.packb((_pack_steps(layers), _pack_repeats(slice_bytes)))
    return packed


@lru_cache(maxsize=1024)
def _unpack_layers(packed: bytes) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The same tuples for the same bytes: equal ones are then compared at once. Raises ValueError, TypeError."""
    layers, sizes = msgpack.unpackb(packed)
    return _unpack_steps(layers), _unpack_repeats(sizes)


def _pack_steps(values: Sequence[int]) -> list[int]:
    """Runs of consecutive numbers as [first, count, first, count, …]."""
    runs: list[int] = []
    for value in values:
        if runs and runs[-2] + runs[-1] == value:
            runs[-1] += 1
        else:
            runs += [value, 1]
    return runs


def _unpack_steps(runs: list[Any]) -> tuple[int, ...]:
    pairs = zip(runs[::2], runs[1::2], strict=True)
    return tuple(value for first, count in pairs for value in range(first, first + count))


def _pack_repeats(values: Sequence[int]) -> list[int]:
    """Runs of equal numbers as [value, count, value, count, …]."""
    runs: list[int] = []
    for value in values:
        if runs and runs[-2] == value:
            runs[-1] += 1
        else:
            runs += [value, 1]
    return runs


def _unpack_repeats(runs: list[Any]) -> tuple[int, ...]:
    pairs = zip(runs[::2], runs[1::2], strict=True)
    return tuple(value for value, count in pairs for _ in range(count))
