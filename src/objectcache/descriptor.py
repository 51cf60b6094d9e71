"""The retrieval request on the wire, and its validation. Everything a client claims is checked here, once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from math import isnan
from typing import Any, TypeVar

import msgpack

from objectcache.errors import DescriptorError, LayoutError
from objectcache.keys import KEY_BYTES
from objectcache.layout import MAX_CHUNK_TOKENS, MAX_GROUPS, MAX_LAYERS, MAX_SHARDS, KVLayout, PartShape
from objectcache.names import SEGMENT_TAG_BYTES

DESCRIPTOR_VERSION = 2
MAX_DESCRIPTOR_BYTES = 1 << 20
MAX_CHUNK_INDEX = 1 << 24
MAX_PARTS = 256
MAX_DEADLINE_S = 3600.0
MAX_ITEMS = 1 << 14
MAX_HELD_STEPS = 64
KEPT_PARTS = 256
KEPT_PART_BYTES = 4096
"""Larger ones are decoded each time: what is kept is a client's to choose."""
ID_BYTES = 16

_T = TypeVar("_T")

Versions = tuple[tuple[int, bytes], ...]
"""Which segments chunks are of: (chunks, `names.segment_tag` of the segment), one after the other."""


class TargetKind(StrEnum):
    """Where the bytes go."""

    HTTP = "http"  # the response to the request
    TCP = "tcp"  # the striped connections of a session
    SHM = "shm"  # the client's own memory, which it shares with a gateway on its host
    NIXL = "nixl"  # the client's own memory, which it has registered with NIXL

    @property
    def places(self) -> bool:
        """Whether it is the gateway's worker that writes the client's memory."""
        return self in (TargetKind.SHM, TargetKind.NIXL)


_TARGET_KINDS = {kind.value: kind for kind in TargetKind}


@dataclass(frozen=True, slots=True)
class Target:
    """`session` names the connections, but for HTTP; `offset` is where the destination begins in memory that the
    gateway's worker writes itself."""

    kind: TargetKind
    session: bytes = b""
    offset: int = 0

    def to_map(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"kind": self.kind.value, "session": self.session}
        return fields | {"offset": self.offset} if self.kind.places else fields


@dataclass(frozen=True, slots=True)
class HeldChunks:
    """What a client has of one shard, from chunk `first` on, before it is known how much of it matches: `held` and
    `versions` as a DescriptorPart has them."""

    group: int
    shard: int
    first: int
    held: tuple[tuple[int, int], ...]
    versions: Versions

    def shortened(self, chunks: int) -> HeldChunks:
        """Of the first `chunks` of it only."""
        if all(count <= chunks for _, count in self.held):
            return self
        held: list[tuple[int, int]] = []
        for below, count in self.held:
            if not held or held[-1][1] < chunks:
                held.append((below, min(count, chunks)))
        return replace(self, held=tuple(held), versions=first_versions(self.versions, held[-1][1] if held else 0))

    def to_map(self) -> dict[str, Any]:
        return {"group": self.group, "shard": self.shard, "first": self.first, **_held_map(self.held, self.versions)}

    @classmethod
    def of(cls, fields: FieldReader) -> HeldChunks:
        """The inverse of `to_map`. Raises DescriptorError, and what `fields` raises."""
        part = cls(
            fields.integer("group", 0, MAX_GROUPS - 1),
            fields.integer("shard", 0, MAX_SHARDS - 1),
            fields.integer("first", 0, MAX_CHUNK_INDEX),
            _decode_held(fields),
            _decode_versions(fields),
        )
        if not part.held:
            raise DescriptorError("held_layers and held_chunks must say that something is held")
        with _steps_named():
            PartShape((0,), (1,), part.held[-1][1], part.held)
        _check_versions(part.held, part.versions)
        return part


def first_versions(versions: Versions, chunks: int) -> Versions:
    """Those of the first `chunks`."""
    cut: list[tuple[int, bytes]] = []
    for count, tag in versions:
        if chunks <= 0:
            break
        cut.append((min(count, chunks), tag))
        chunks -= count
    return tuple(cut)


@dataclass(frozen=True, slots=True)
class DescriptorPart:
    """Chunks [first, stop) of one shard: `leaf` is the key of chunk stop-1; the layout as the client has it.

    `held` is what the client has of it already (`PartShape.held`), and `versions` of which segments that is: pairs
    (chunks, tag), from chunk `first` on (`names.segment_tag`). Where other segments would serve those chunks now, the
    descriptor is refused, so that no chunk is made up of two versions.
    """

    group: int
    shard: int
    leaf: bytes
    first: int
    stop: int
    chunk_tokens: int
    layers: tuple[int, ...]
    slice_bytes: tuple[int, ...]
    held: tuple[tuple[int, int], ...] = ()
    versions: Versions = ()

    @classmethod
    def of(cls, part: tuple[int, int], first: int, stop: int, leaf: bytes, layout: KVLayout) -> DescriptorPart:
        """Chunks [first, stop) of `part` (group, shard) as `layout` has it."""
        shard = layout.shard(*part)
        tokens = layout.group(part[0]).chunk_tokens
        return cls(part[0], part[1], leaf, first, stop, tokens, shard.layers, shard.slice_bytes)

    @property
    def shape(self) -> PartShape:
        return PartShape(self.layers, self.slice_bytes, self.stop - self.first, self.held)

    @property
    def all_held(self) -> bool:
        """Nothing of it is to be sent."""
        return self.shape.held_chunks(self.layers[-1]) == self.stop - self.first

    def holding(self, part: HeldChunks | None) -> DescriptorPart:
        """As the client has it that holds `part`: of no use where that begins elsewhere."""
        if part is None or part.first != self.first:
            return self
        mine = part.shortened(self.stop - self.first)
        return replace(self, held=mine.held, versions=mine.versions)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What to deliver, in which order, whereto.

    `delivery` is the client's number for it and `epoch` the attempt; both come back in every frame. Layers below
    `from_layer` are skipped (asking again after a failure). `layers_per_unit` 0 leaves it to the server.
    `credit_bytes` bounds what may be sent before the client grants more; 0 is no bound. `windows_s` are compute
    seconds per layer, `deadline_s` seconds from receipt.
    """

    namespace: bytes
    parts: tuple[DescriptorPart, ...]
    target: Target
    delivery: int
    epoch: int = 0
    from_layer: int = 0
    layers_per_unit: int = 1
    credit_bytes: int = 0
    windows_s: tuple[float, ...] = ()
    gang: str = ""
    deadline_s: float = 30.0
    lease: bytes = b""
    trace: str = ""
    version: int = field(default=DESCRIPTOR_VERSION)

    def encode(self) -> bytes:
        data: bytes = msgpack.packb(
            {
                "version": self.version,
                "namespace": self.namespace,
                "parts": [
                    {
                        "group": part.group,
                        "shard": part.shard,
                        "leaf": part.leaf,
                        "first": part.first,
                        "stop": part.stop,
                        "chunk_tokens": part.chunk_tokens,
                        "layers": list(part.layers),
                        "slice_bytes": list(part.slice_bytes),
                        **_held_map(part.held, part.versions),
                    }
                    for part in self.parts
                ],
                "order": "layer",
                "target": self.target.to_map(),
                "delivery": self.delivery,
                "epoch": self.epoch,
                "from_layer": self.from_layer,
                "layers_per_unit": self.layers_per_unit,
                "credit_bytes": self.credit_bytes,
                "windows_s": list(self.windows_s),
                "gang": self.gang,
                "deadline_s": self.deadline_s,
                "lease": self.lease,
                "trace": self.trace,
            }
        )
        return data

    def check_layout(self, layout: KVLayout) -> None:
        """Raises DescriptorError where a part is not as the namespace's layout has it."""
        for part in self.parts:
            try:
                shard = layout.shard(part.group, part.shard)
            except LayoutError as error:
                raise DescriptorError(f"the namespace has no such part: {error}") from error
            expected = layout.group(part.group).chunk_tokens
            if part.chunk_tokens != expected:
                raise DescriptorError(
                    f"group {part.group} has chunks of {expected} tokens, not {part.chunk_tokens} (chunk_tokens)"
                )
            if part.layers != shard.layers:
                raise DescriptorError(f"shard {part.shard} of group {part.group} has other layers than the ones given")
            if part.slice_bytes != shard.slice_bytes:
                raise DescriptorError(
                    f"slices of shard {part.shard} of group {part.group} are {shard.slice_bytes[0]} bytes (layer "
                    f"{shard.layers[0]}), not {part.slice_bytes[0]} (slice_bytes)"
                )


class FieldReader:
    """Reads typed fields of a decoded map; the first one that is wrong becomes the error, with its path."""

    def __init__(self, data: object, where: str, error: Callable[[str], Exception] = DescriptorError) -> None:
        self._error = error
        self._where = where
        if not isinstance(data, dict):
            raise error(f"{where} must be a map")
        self._data: Mapping[Any, Any] = data

    def has(self, name: str) -> bool:
        """For what was added later: whether the other side knows of it."""
        return name in self._data

    def _get(self, name: str) -> Any:
        if name not in self._data:
            raise self._error(f"{self._where}.{name} is missing")
        return self._data[name]

    def integer(self, name: str, low: int, high: int) -> int:
        value = self._get(name)
        if type(value) is not int or not low <= value <= high:
            raise self._error(f"{self._where}.{name} must be an integer in {low}..{high}, got {_short(value)}")
        return value

    def number(self, name: str, low: float, high: float) -> float:
        return self._number(self._get(name), name, low, high)

    def optional_number(self, name: str, low: float, high: float) -> float | None:
        """None where nil says that there is none."""
        value = self._get(name)
        return None if value is None else self._number(value, name, low, high)

    def _number(self, value: object, name: str, low: float, high: float) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:  # NaN is not
            return float(value)
        raise self._error(f"{self._where}.{name} must be a number in {low}..{high}, got {_short(value)}")

    def binary(self, name: str, *lengths: int) -> bytes:
        value = self._get(name)
        if not isinstance(value, bytes) or (lengths and len(value) not in lengths):
            wanted = " or ".join(map(str, lengths)) if lengths else "any number of"
            raise self._error(f"{self._where}.{name} must be {wanted} bytes, got {_short(value)}")
        return value

    def text(self, name: str, limit: int = 256) -> str:
        value = self._get(name)
        if not isinstance(value, str) or len(value) > limit:
            raise self._error(f"{self._where}.{name} must be a string of at most {limit} characters")
        return value

    def items(self, name: str, limit: int) -> list[Any]:
        value = self._get(name)
        if not isinstance(value, list) or len(value) > limit:
            raise self._error(f"{self._where}.{name} must be a list of at most {limit}")
        return value

    def integers(self, name: str, low: int, high: int, limit: int) -> tuple[int, ...]:
        values = self.items(name, limit)
        # As a whole: one by one takes longer than all else of a descriptor.
        if values and (set(map(type, values)) != {int} or min(values) < low or max(values) > high):
            raise self._error(f"{self._where}.{name} must be integers in {low}..{high}")
        return tuple(values)

    def numbers(self, name: str, low: float, high: float, limit: int) -> tuple[float, ...]:
        values = self.items(name, limit)
        # As a whole, as integers are. NaN may hide others in a minimum, but not from a sum.
        plain = set(map(type, values)) <= {int, float}
        if plain and (not values or low <= min(values) <= max(values) <= high) and not isnan(sum(values)):
            return tuple(map(float, values))
        return tuple(self._number(value, name, low, high) for value in values)

    def sub(self, name: str) -> FieldReader:
        return FieldReader(self._get(name), f"{self._where}.{name}", self._error)


def unpack_map(data: bytes, where: str, error: Callable[[str], Exception] = DescriptorError) -> FieldReader:
    """A msgpack map as a FieldReader. Raises `error` for anything else."""
    try:
        # Arrays are allocated by the length they claim, and may be nested.
        return FieldReader(msgpack.unpackb(data, max_array_len=MAX_ITEMS), where, error)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as problem:
        raise error(f"{where} is not msgpack, or cut short: {problem}") from problem


def decode_descriptor(data: bytes) -> Descriptor:
    """The descriptor in `data`. Raises DescriptorError that says which field is wrong and what would be right."""
    if len(data) > MAX_DESCRIPTOR_BYTES:
        raise DescriptorError(f"a descriptor is at most {MAX_DESCRIPTOR_BYTES} bytes, got {len(data)}")
    fields = unpack_map(data, "descriptor")
    version = fields.integer("version", 0, 1 << 31)
    if version != DESCRIPTOR_VERSION:
        raise DescriptorError(f"descriptor.version {version} is not known here; {DESCRIPTOR_VERSION} is")
    if fields.text("order") != "layer":
        raise DescriptorError("descriptor.order must be 'layer'")
    raw_parts = fields.items("parts", MAX_PARTS)
    if not raw_parts:
        raise DescriptorError("descriptor.parts must name at least one part")
    parts = tuple(_part(part, i) for i, part in enumerate(raw_parts))
    if len({(part.group, part.shard) for part in parts}) != len(parts):
        raise DescriptorError("descriptor.parts names a part twice")
    return Descriptor(
        version=version,
        namespace=fields.binary("namespace", KEY_BYTES),
        parts=parts,
        target=decode_target(fields.sub("target")),
        delivery=fields.integer("delivery", 0, (1 << 64) - 1),
        epoch=fields.integer("epoch", 0, (1 << 32) - 1),
        from_layer=fields.integer("from_layer", 0, MAX_LAYERS),
        layers_per_unit=fields.integer("layers_per_unit", 0, 1 << 20),
        credit_bytes=fields.integer("credit_bytes", 0, 1 << 62),
        windows_s=fields.numbers("windows_s", 0.0, MAX_DEADLINE_S, MAX_LAYERS),
        gang=fields.text("gang"),
        deadline_s=fields.number("deadline_s", 0.0, MAX_DEADLINE_S),
        lease=fields.binary("lease", 0, ID_BYTES),
        trace=fields.text("trace"),
    )


def decode_target(fields: FieldReader) -> Target:
    """Raises DescriptorError, and what `fields` raises."""
    named = fields.text("kind")
    kind = _TARGET_KINDS.get(named)
    if kind is None:
        raise DescriptorError(f"descriptor.target.kind {named!r} is not one of {', '.join(TargetKind)}")
    target = Target(
        kind,
        fields.binary("session", 0, ID_BYTES),
        fields.integer("offset", 0, 1 << 62) if kind.places else 0,
    )
    if (target.kind is not TargetKind.HTTP) != bool(target.session):
        raise DescriptorError("descriptor.target.session must be given for tcp, shm and nixl, and only there")
    return target


def _part(data: object, index: int) -> DescriptorPart:
    packed = msgpack.packb(data)
    return (_kept_part if len(packed) <= KEPT_PART_BYTES else _kept_part.__wrapped__)(packed, index)


@lru_cache(maxsize=KEPT_PARTS)
def _kept_part(packed: bytes, index: int) -> DescriptorPart:
    """Most parts are asked for again, and packing one is quicker than checking it. Unlike maps, packed ones that differ
    in a type only are not the same."""
    return _decode_part(FieldReader(msgpack.unpackb(packed), f"descriptor.parts[{index}]"))


def _decode_part(fields: FieldReader) -> DescriptorPart:
    part = DescriptorPart(
        group=fields.integer("group", 0, MAX_GROUPS - 1),
        shard=fields.integer("shard", 0, MAX_SHARDS - 1),
        leaf=fields.binary("leaf", KEY_BYTES),
        first=fields.integer("first", 0, MAX_CHUNK_INDEX),
        stop=fields.integer("stop", 0, MAX_CHUNK_INDEX),
        chunk_tokens=fields.integer("chunk_tokens", 1, MAX_CHUNK_TOKENS),
        layers=fields.integers("layers", 0, MAX_LAYERS - 1, MAX_LAYERS),
        slice_bytes=fields.integers("slice_bytes", 1, 1 << 30, MAX_LAYERS),
        held=_decode_held(fields),
        versions=_decode_versions(fields),
    )
    if part.first >= part.stop:
        raise DescriptorError(f"chunk range [{part.first}, {part.stop}) is empty or negative (first, stop)")
    if not part.layers or len(part.layers) != len(part.slice_bytes):
        raise DescriptorError("layers and slice_bytes must have the same length, at least 1")
    with _steps_named():
        _check_versions(part.shape.held, part.versions)
    return part


def _held_map(held: tuple[tuple[int, int], ...], versions: Versions) -> dict[str, Any]:
    return {
        "held_layers": [below for below, _ in held],
        "held_chunks": [chunks for _, chunks in held],
        "version_chunks": [chunks for chunks, _ in versions],
        "version_tags": b"".join(tag for _, tag in versions),
    }


@contextmanager
def _steps_named() -> Iterator[None]:
    """What a PartShape says against its `held`, as a DescriptorError with the fields that it came in."""
    try:
        yield
    except LayoutError as error:
        raise DescriptorError(f"{error} (held_layers, held_chunks)") from error


def _check_versions(held: tuple[tuple[int, int], ...], versions: Versions) -> None:
    if sum(chunks for chunks, _ in versions) != (held[-1][1] if held else 0):
        raise DescriptorError("version_chunks must add up to the most chunks held of any layer")


def _decode_held(fields: FieldReader) -> tuple[tuple[int, int], ...]:
    below = fields.integers("held_layers", 1, MAX_LAYERS, MAX_HELD_STEPS)
    chunks = fields.integers("held_chunks", 1, MAX_CHUNK_INDEX, MAX_HELD_STEPS)
    if len(below) != len(chunks):
        raise DescriptorError("held_layers and held_chunks must have the same length")
    return tuple(zip(below, chunks, strict=True))


def _decode_versions(fields: FieldReader) -> Versions:
    chunks = fields.integers("version_chunks", 1, MAX_CHUNK_INDEX, MAX_ITEMS)
    tags = fields.binary("version_tags")
    if len(tags) != len(chunks) * SEGMENT_TAG_BYTES:
        raise DescriptorError(f"version_tags must be {SEGMENT_TAG_BYTES} bytes for each of version_chunks")
    return tuple((count, tags[i * SEGMENT_TAG_BYTES :][:SEGMENT_TAG_BYTES]) for i, count in enumerate(chunks))


def _short(value: object) -> str:
    """For a message. What is large or nested is not spelt out: that could take long, and nest too deep for `repr`."""
    if isinstance(value, list | dict | bytes) and len(value) > (32 if isinstance(value, bytes) else 0):
        return f"{type(value).__name__} of {len(value)}"
    text = repr(value[:40] if isinstance(value, str) else value)
    return text if len(text) <= 40 else text[:37] + "…"
