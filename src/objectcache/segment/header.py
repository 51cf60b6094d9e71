"""Header and footer of a segment: bytes to fields and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import lt
from struct import Struct
from typing import Any

import msgpack

from objectcache.errors import IntegrityError, LayoutError, RequestError
from objectcache.integrity import Buffer, LayerBinding, record_digest, seal, unseal
from objectcache.keys import KEY_BYTES, KeyChain
from objectcache.layout import (
    DIGEST_BYTES,
    MAX_CHUNK_TOKENS,
    MAX_GROUPS,
    MAX_LAYERS,
    MAX_SHARDS,
    MAX_SLICE_BYTES,
    KVLayout,
    SegmentGeometry,
    segment_geometry,
)

HEADER_MAGIC = b"OCKVSEG1"
FOOTER_MAGIC = b"OCKVEND1"
FORMAT_VERSION = 1
MAX_HEADER_BYTES = 4 << 20
MAX_CHUNKS = 1 << 16
MAX_NAME_BYTES = 1024
MAX_DEPTH = 1 << 32

_PREFIX = Struct("<8sI")
_FOOTER_HEAD = Struct("<8sQI")


@dataclass(frozen=True)
class SegmentHeader:
    """What a segment says of itself.

    `name` is the object's name, so that a segment under another's name is recognised. `depth` is the index in the
    chain of the first chunk (in chunks of this group), `parent` the key before it: the namespace digest at depth 0.
    """

    name: str
    namespace: bytes
    group: int
    shard: int
    chunk_tokens: int
    layers: tuple[int, ...]
    slice_bytes: tuple[int, ...]
    parent: bytes
    depth: int
    keys: KeyChain

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise LayoutError(f"segment header: {problem}")

    def _problem(self) -> str | None:
        if not 0 < len(self.name.encode()) <= MAX_NAME_BYTES:
            return f"a name is 1 to {MAX_NAME_BYTES} bytes"
        if len(self.namespace) != KEY_BYTES or len(self.parent) != KEY_BYTES:
            return f"namespace and parent are {KEY_BYTES} bytes"
        if not 0 < len(self.keys) <= MAX_CHUNKS:
            return f"a segment holds 1 to {MAX_CHUNKS} chunks, not {len(self.keys)}"
        if not self.layers or len(self.layers) != len(self.slice_bytes):
            return "needs one slice size per layer"
        if not all(map(lt, self.layers, self.layers[1:])):
            return "layers must ascend"
        if not 0 <= self.layers[0] <= self.layers[-1] < MAX_LAYERS:
            return f"layers must lie in 0..{MAX_LAYERS - 1}"
        if not 0 < min(self.slice_bytes) <= max(self.slice_bytes) <= MAX_SLICE_BYTES:
            return f"slice sizes must lie in 1..{MAX_SLICE_BYTES}"
        if not 0 <= self.group < MAX_GROUPS or not 0 <= self.shard < MAX_SHARDS:
            return "group or shard out of range"
        if not 0 < self.chunk_tokens <= MAX_CHUNK_TOKENS or not 0 <= self.depth < MAX_DEPTH:
            return "chunk_tokens or depth out of range"
        if self.depth == 0 and self.parent != self.namespace:
            return "the parent of a chain's first chunk is the namespace"
        return None

    @classmethod
    def for_layout(
        cls,
        layout: KVLayout,
        *,
        name: str,
        namespace: bytes,
        group: int,
        shard: int,
        chain: KeyChain,
        first: int,
        stop: int,
    ) -> SegmentHeader:
        """Header of chunks [first, stop) of `chain`, whose keys are those of `group`, from the chain's start."""
        held = layout.shard(group, shard)
        if not 0 <= first < stop <= len(chain):
            raise LayoutError(f"chunks [{first}, {stop}) are outside the chain's {len(chain)}")
        return cls(
            name=name,
            namespace=namespace,
            group=group,
            shard=shard,
            chunk_tokens=layout.group(group).chunk_tokens,
            layers=held.layers,
            slice_bytes=held.slice_bytes,
            parent=chain[first - 1] if first else namespace,
            depth=first,
            keys=chain[first:stop],
        )

    @property
    def num_chunks(self) -> int:
        return len(self.keys)

    @property
    def leaf(self) -> bytes:
        return self.keys[-1]

    @cached_property
    def encoded(self) -> bytes:
        body = msgpack.packb(
            {
                "version": FORMAT_VERSION,
                "name": self.name,
                "namespace": self.namespace,
                "group": self.group,
                "shard": self.shard,
                "chunk_tokens": self.chunk_tokens,
                "layers": list(self.layers),
                "slice_bytes": list(self.slice_bytes),
                "parent": self.parent,
                "depth": self.depth,
                "keys": self.keys.data,
            }
        )
        return seal(_PREFIX.pack(HEADER_MAGIC, len(body)) + body)

    @cached_property
    def geometry(self) -> SegmentGeometry:
        return segment_geometry(self.num_chunks, self.slice_bytes, len(self.encoded))

    @property
    def total_bytes(self) -> int:
        return self.geometry.footer_offset + footer_bytes(len(self.layers))

    def binding(self, position: int) -> LayerBinding:
        return LayerBinding(self.group, self.shard, self.layers[position])

    def position_of(self, layer: int) -> int:
        try:
            return self.layers.index(layer)
        except ValueError:
            raise LayoutError(f"layer {layer} is not in segment {self.name}") from None


def footer_bytes(num_layers: int) -> int:
    return _FOOTER_HEAD.size + num_layers * DIGEST_BYTES + 2 * DIGEST_BYTES


def header_length(prefix: Buffer) -> int:
    """Total bytes of a header, from its first 12. Raises IntegrityError when it is none."""
    if len(prefix) < _PREFIX.size:
        raise IntegrityError("not a segment: shorter than a header")
    magic, body = _PREFIX.unpack_from(prefix)
    if magic != HEADER_MAGIC:
        raise IntegrityError(f"not a segment: begins with {bytes(magic)!r}")
    total = _PREFIX.size + int(body) + DIGEST_BYTES
    if total > MAX_HEADER_BYTES:
        raise IntegrityError(f"a segment header of {total} bytes is beyond the limit of {MAX_HEADER_BYTES}")
    return total


HEADER_PREFIX_BYTES = _PREFIX.size


_UNPACK_LIMITS = {
    "max_str_len": MAX_NAME_BYTES,
    "max_bin_len": MAX_CHUNKS * KEY_BYTES,
    "max_array_len": MAX_LAYERS,  # arrays are allocated by the length they claim
    "max_map_len": 64,
    "max_ext_len": 0,
}


_FIELD_TYPES = {
    "name": str,
    "namespace": bytes,
    "group": int,
    "shard": int,
    "chunk_tokens": int,
    "layers": list,
    "slice_bytes": list,
    "parent": bytes,
    "depth": int,
    "keys": bytes,
}


def _check_types(fields: Mapping[str, Any]) -> None:
    """Raises TypeError. `True` passes for 1 and a string for bytes everywhere else, msgpack's own packing included."""
    wrong = [name for name, kind in _FIELD_TYPES.items() if type(fields[name]) is not kind]
    wrong += [name for name in ("layers", "slice_bytes") if set(map(type, fields[name])) - {int}]
    if wrong:
        raise TypeError(f"of the wrong type: {', '.join(wrong)}")


def decode_header(data: Buffer) -> SegmentHeader:
    """The header that `data` (exactly its bytes) encodes. Raises IntegrityError for anything else."""
    if header_length(data) != len(data):
        raise IntegrityError("a segment header is not as long as it says")
    body = unseal(data, "a segment header")[_PREFIX.size :]
    try:
        fields: dict[str, Any] = msgpack.unpackb(body, **_UNPACK_LIMITS)
        if fields["version"] != FORMAT_VERSION:
            raise IntegrityError(f"segment format version {fields['version']} is not known here")
        _check_types(fields)
        header = SegmentHeader(
            name=fields["name"],
            namespace=fields["namespace"],
            group=fields["group"],
            shard=fields["shard"],
            chunk_tokens=fields["chunk_tokens"],
            layers=tuple(fields["layers"]),
            slice_bytes=tuple(fields["slice_bytes"]),
            parent=fields["parent"],
            depth=fields["depth"],
            keys=KeyChain(fields["keys"]),
        )
    except (ValueError, KeyError, TypeError, msgpack.UnpackException, LayoutError, RequestError) as error:
        raise IntegrityError(f"a segment header is malformed: {error!r}") from error
    if header.encoded != bytes(data):
        raise IntegrityError("a segment header is not in canonical form")
    return header


def decoded_name(data: Buffer) -> str:
    """The name in a header that has been decoded before: much cheaper than to do it again."""
    name: str = msgpack.unpackb(memoryview(data)[_PREFIX.size : -DIGEST_BYTES], **_UNPACK_LIMITS)["name"]
    return name


def encode_footer(header: SegmentHeader, row_digests: Sequence[bytes]) -> bytes:
    head = _FOOTER_HEAD.pack(FOOTER_MAGIC, header.total_bytes, len(row_digests))
    return seal(head + b"".join(row_digests) + record_digest(header.encoded))


def decode_footer(data: Buffer, header: SegmentHeader) -> tuple[bytes, ...]:
    """The row digests of a footer that belongs to `header`. Raises IntegrityError for anything else."""
    if len(data) != footer_bytes(len(header.layers)):
        raise IntegrityError(f"segment {header.name} is torn: its footer is incomplete")
    body = unseal(data, f"the footer of segment {header.name}")
    magic, total, layers = _FOOTER_HEAD.unpack_from(body)
    rows = body[_FOOTER_HEAD.size :]
    if magic != FOOTER_MAGIC or total != header.total_bytes or layers != len(header.layers):
        raise IntegrityError(f"segment {header.name} is torn: its footer does not fit its header")
    if rows[layers * DIGEST_BYTES :] != record_digest(header.encoded):
        raise IntegrityError(f"segment {header.name}: header and footer are of different segments")
    return tuple(bytes(rows[i * DIGEST_BYTES : (i + 1) * DIGEST_BYTES]) for i in range(layers))
