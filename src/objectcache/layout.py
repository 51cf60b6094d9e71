"""Shapes and byte sizes of KV, groups and shards, and of what is laid out from them.

This is the only module that does this arithmetic. Nothing here touches data.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from itertools import accumulate
from math import lcm
from typing import Any, NamedTuple

from objectcache.errors import LayoutError

DIGEST_BYTES = 16
PIECE_BYTES = 1 << 20
"""What one piece digest covers, at most: large enough that hashing releases the interpreter lock."""
ALIGNMENT_BYTES = 4096
"""Slices of a layer start on this boundary of the segment."""

MAX_CHUNK_TOKENS = 1 << 16
MAX_SLICE_BYTES = 1 << 30
MAX_LAYERS = 1 << 12
MAX_SHARDS = 1 << 12
MAX_GROUPS = 64


class MatchRule(StrEnum):
    """What a group needs of a prefix so that its layers can go on from there."""

    PREFIX = "prefix"  # full attention: every chunk from the start
    WINDOW = "window"  # sliding window: the chunks that the window still sees
    STATE = "state"  # recurrent: the state at the boundary, which is one chunk


@dataclass(frozen=True, slots=True)
class KVShard:
    """The part of a group that some ranks hold: those `layers`, `slice_bytes[i]` bytes a chunk at `layers[i]`.

    `ranks` are the global ranks (pipeline stage * tensor_parallel + tensor rank) that hold this same part; the
    first is its one writer.
    """

    index: int
    layers: tuple[int, ...]
    slice_bytes: tuple[int, ...]
    ranks: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        if not self.layers or len(self.layers) != len(self.slice_bytes):
            raise LayoutError(
                f"shard {self.index}: needs at least one layer and one slice size per layer, "
                f"got {len(self.layers)} layers and {len(self.slice_bytes)} sizes"
            )
        if any(a >= b for a, b in zip(self.layers, self.layers[1:], strict=False)) or self.layers[0] < 0:
            raise LayoutError(f"shard {self.index}: layers must ascend from 0 or more, got {self.layers}")
        if self.layers[-1] >= MAX_LAYERS:
            raise LayoutError(f"shard {self.index}: layer {self.layers[-1]} is beyond the limit of {MAX_LAYERS}")
        if any(not 0 < size <= MAX_SLICE_BYTES for size in self.slice_bytes):
            raise LayoutError(
                f"shard {self.index}: slice sizes must lie in 1..{MAX_SLICE_BYTES}, got {self.slice_bytes}"
            )
        if not 0 <= self.index < MAX_SHARDS:
            raise LayoutError(f"shard index {self.index} is outside 0..{MAX_SHARDS - 1}")
        if not self.ranks or min(self.ranks) < 0 or len(set(self.ranks)) != len(self.ranks):
            raise LayoutError(f"shard {self.index}: needs at least one rank, each once, got {self.ranks}")

    @property
    def writer(self) -> int:
        """The one rank that stores this shard."""
        return self.ranks[0]

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one chunk over all layers of this shard."""
        return sum(self.slice_bytes)


@dataclass(frozen=True, slots=True)
class KVGroup:
    """Layers of one kind, which share a chunk size and a match rule."""

    name: str
    chunk_tokens: int
    shards: tuple[KVShard, ...]
    rule: MatchRule = MatchRule.PREFIX
    window_tokens: int = 0

    def __post_init__(self) -> None:
        if not self.name or len(self.name) > 64:
            raise LayoutError(f"a group needs a name of 1 to 64 characters, got {self.name!r}")
        if not 0 < self.chunk_tokens <= MAX_CHUNK_TOKENS:
            raise LayoutError(
                f"group {self.name}: chunk_tokens must lie in 1..{MAX_CHUNK_TOKENS}, got {self.chunk_tokens}"
            )
        if [s.index for s in self.shards] != list(range(len(self.shards))) or not self.shards:
            raise LayoutError(f"group {self.name}: shards must be numbered 0, 1, …")
        ranks = [rank for shard in self.shards for rank in shard.ranks]
        if len(set(ranks)) != len(ranks):
            raise LayoutError(f"group {self.name}: a rank holds two of its shards")
        if (self.rule is MatchRule.WINDOW) != (self.window_tokens > 0) or self.window_tokens < 0:
            raise LayoutError(f"group {self.name}: rule {self.rule} and window_tokens {self.window_tokens} do not fit")

    @property
    def window_chunks(self) -> int:
        """How many chunks before a boundary the window can still see (0 without a window)."""
        return -(-self.window_tokens // self.chunk_tokens)

    def shard_of(self, rank: int) -> KVShard | None:
        """The shard that `rank` holds, or None when its pipeline stage has no layer of this group."""
        return next((shard for shard in self.shards if rank in shard.ranks), None)


@dataclass(frozen=True, slots=True)
class KVLayout:
    """All KV of one model as one deployment stores it. Group order is part of the layout."""

    groups: tuple[KVGroup, ...]

    def __post_init__(self) -> None:
        if not 0 < len(self.groups) <= MAX_GROUPS:
            raise LayoutError(f"a layout has 1 to {MAX_GROUPS} groups, got {len(self.groups)}")
        if len({group.name for group in self.groups}) != len(self.groups):
            raise LayoutError("two groups of a layout have the same name")
        base = self.key_tokens
        if any(group.chunk_tokens % base for group in self.groups):
            raise LayoutError("every group's chunk_tokens must be a multiple of the smallest one")

    @property
    def key_tokens(self) -> int:
        """Tokens per chunk key: the smallest chunk of any group."""
        return min(group.chunk_tokens for group in self.groups)

    @property
    def boundary_tokens(self) -> int:
        """Prefix lengths that all groups can share are multiples of this."""
        return lcm(*(group.chunk_tokens for group in self.groups))

    @property
    def bytes_per_token(self) -> float:
        """Bytes of KV a token adds over all groups that grow with the prefix, all shards."""
        return sum(
            shard.chunk_bytes / group.chunk_tokens
            for group in self.groups
            if group.rule is not MatchRule.STATE
            for shard in group.shards
        )

    def group(self, index: int) -> KVGroup:
        if not 0 <= index < len(self.groups):
            raise LayoutError(f"group {index} is outside this layout's 0..{len(self.groups) - 1}")
        return self.groups[index]

    def shard(self, group: int, shard: int) -> KVShard:
        shards = self.group(group).shards
        if not 0 <= shard < len(shards):
            raise LayoutError(f"shard {shard} of group {group} is outside 0..{len(shards) - 1}")
        return shards[shard]

    # -- usual layouts ----------------------------------------------------------------------------

    @classmethod
    def attention(
        cls,
        *,
        num_layers: int,
        num_kv_heads: int,
        head_dim: int,
        dtype_bytes: int,
        chunk_tokens: int = 16,
        tensor_parallel: int = 1,
        pipeline_parallel: int = 1,
    ) -> KVLayout:
        """MHA or GQA: one full-attention group, K and V of `num_kv_heads` heads.

        Heads are split over tensor ranks; with more ranks than heads, ranks share a shard and the first writes it.
        """
        return cls(
            (
                attention_group(
                    "full",
                    range(num_layers),
                    num_kv_heads=num_kv_heads,
                    head_dim=head_dim,
                    dtype_bytes=dtype_bytes,
                    chunk_tokens=chunk_tokens,
                    tensor_parallel=tensor_parallel,
                    stages=pipeline_stages(num_layers, pipeline_parallel),
                ),
            )
        )

    @classmethod
    def latent(
        cls,
        *,
        num_layers: int,
        latent_dim: int,
        dtype_bytes: int,
        chunk_tokens: int = 16,
        tensor_parallel: int = 1,
        pipeline_parallel: int = 1,
    ) -> KVLayout:
        """MLA: one latent of `latent_dim` values a token and layer, replicated over tensor ranks: one shard a stage."""
        shards = []
        for stage, layers in enumerate(pipeline_stages(num_layers, pipeline_parallel)):
            ranks = tuple(range(stage * tensor_parallel, (stage + 1) * tensor_parallel))
            size = latent_dim * dtype_bytes * chunk_tokens
            shards.append(KVShard(stage, tuple(layers), (size,) * len(layers), ranks))
        return cls((KVGroup("latent", chunk_tokens, tuple(shards)),))

    # -- as data ----------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Plain data, stable across versions: it is part of the namespace digest."""
        return {
            "groups": [
                {
                    "name": group.name,
                    "chunk_tokens": group.chunk_tokens,
                    "rule": group.rule.value,
                    "window_tokens": group.window_tokens,
                    "shards": [
                        {
                            "layers": list(shard.layers),
                            "slice_bytes": list(shard.slice_bytes),
                            "ranks": list(shard.ranks),
                        }
                        for shard in group.shards
                    ],
                }
                for group in self.groups
            ]
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> KVLayout:
        """The inverse of `to_dict`. Raises LayoutError for anything else."""
        try:
            layout = cls(
                tuple(
                    KVGroup(
                        name=str(group["name"]),
                        chunk_tokens=int(group["chunk_tokens"]),
                        rule=MatchRule(group["rule"]),
                        window_tokens=int(group["window_tokens"]),
                        shards=tuple(
                            KVShard(
                                index,
                                tuple(int(n) for n in shard["layers"]),
                                tuple(int(n) for n in shard["slice_bytes"]),
                                tuple(int(n) for n in shard["ranks"]),
                            )
                            for index, shard in enumerate(group["shards"])
                        ),
                    )
                    for group in data["groups"]
                )
            )
            # Digests are of the written form, so one that only means the same is another layout.
            same = json.dumps(layout.to_dict(), sort_keys=True) == json.dumps(data, sort_keys=True)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise LayoutError(f"not a KV layout: {error!r}") from error
        if not same:
            raise LayoutError("not a KV layout: a field is unknown here, or of another type")
        return layout


def pipeline_stages(num_layers: int, pipeline_parallel: int) -> list[range]:
    """Layers of each pipeline stage: consecutive, as even as can be, longer stages first."""
    if not 0 < pipeline_parallel <= num_layers:
        raise LayoutError(f"{num_layers} layers cannot be split over {pipeline_parallel} pipeline stages")
    base, extra = divmod(num_layers, pipeline_parallel)
    ends = list(accumulate(base + (stage < extra) for stage in range(pipeline_parallel)))
    return [range(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def attention_group(
    name: str,
    layers: Sequence[int],
    *,
    num_kv_heads: int,
    head_dim: int,
    dtype_bytes: int,
    chunk_tokens: int,
    tensor_parallel: int = 1,
    stages: Sequence[range] | None = None,
    window_tokens: int = 0,
) -> KVGroup:
    """A group of attention layers, full or (with `window_tokens`) sliding, over tensor ranks and pipeline stages.

    Slice bytes are 2 (K and V) * heads of the shard * head_dim * dtype_bytes * chunk_tokens.
    """
    parts = min(tensor_parallel, num_kv_heads)
    if num_kv_heads < 1 or tensor_parallel < 1 or num_kv_heads % parts or tensor_parallel % parts:
        raise LayoutError(f"{num_kv_heads} KV heads cannot be split over {tensor_parallel} tensor ranks")
    replicas = tensor_parallel // parts
    size = 2 * (num_kv_heads // parts) * head_dim * dtype_bytes * chunk_tokens
    shards: list[KVShard] = []
    for stage, stage_layers in enumerate(stages or [range(max(layers, default=0) + 1)]):
        held = tuple(layer for layer in layers if layer in stage_layers)
        if not held:
            continue
        for part in range(parts):
            first = stage * tensor_parallel + part * replicas
            shards.append(KVShard(len(shards), held, (size,) * len(held), tuple(range(first, first + replicas))))
    rule = MatchRule.WINDOW if window_tokens else MatchRule.PREFIX
    return KVGroup(name, chunk_tokens, tuple(shards), rule, window_tokens)


# -- a layer of a segment -----------------------------------------------------------------------------


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


# -- a delivery's destination -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PartShape:
    """What is delivered of one shard: `num_chunks` chunks of each of `layers`."""

    layers: tuple[int, ...]
    slice_bytes: tuple[int, ...]
    num_chunks: int

    def __post_init__(self) -> None:
        if not self.layers or len(self.layers) != len(self.slice_bytes):
            raise LayoutError(
                f"a part needs at least one layer and one slice size per layer, got {len(self.layers)} layers and "
                f"{len(self.slice_bytes)} sizes"
            )
        if any(a >= b for a, b in zip(self.layers, self.layers[1:], strict=False)):
            raise LayoutError("the layers of a part must ascend")
        if self.num_chunks < 1 or min(self.slice_bytes) < 1:
            raise LayoutError(f"a part has at least one chunk of at least one byte, got {self.num_chunks} chunks")


@dataclass(frozen=True)
class DeliveryGeometry:
    """Delivery order, units, and where each layer of each part lies in the destination.

    Layers are delivered in ascending order, whatever part they are of. The destination holds them in that order,
    each layer of each part as one contiguous array (num_chunks, slice_bytes) on a 4 KiB boundary.
    """

    parts: tuple[PartShape, ...]
    layers_per_unit: int
    order: tuple[int, ...] = field(init=False, repr=False)
    units: tuple[tuple[int, ...], ...] = field(init=False, repr=False)
    total_bytes: int = field(init=False)
    payload_bytes: int = field(init=False)
    _places: dict[tuple[int, int], tuple[int, int]] = field(init=False, repr=False, compare=False)
    _parts_of: dict[int, tuple[int, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.layers_per_unit < 1:
            raise LayoutError(f"layers_per_unit must be positive, got {self.layers_per_unit}")
        order = tuple(sorted({layer for part in self.parts for layer in part.layers}))
        positions = [{layer: i for i, layer in enumerate(part.layers)} for part in self.parts]
        places: dict[tuple[int, int], tuple[int, int]] = {}
        parts_of: dict[int, tuple[int, ...]] = {}
        at = payload = 0
        for layer in order:
            parts_of[layer] = tuple(index for index, held in enumerate(positions) if layer in held)
            for index in parts_of[layer]:
                part, position = self.parts[index], positions[index][layer]
                size = part.num_chunks * part.slice_bytes[position]
                places[index, layer] = (at, position)
                payload += size
                at = align_up(at + size)
        step = self.layers_per_unit
        object.__setattr__(self, "order", order)
        object.__setattr__(self, "units", tuple(order[i : i + step] for i in range(0, len(order), step)))
        object.__setattr__(self, "total_bytes", at)
        object.__setattr__(self, "payload_bytes", payload)
        object.__setattr__(self, "_places", places)
        object.__setattr__(self, "_parts_of", parts_of)

    def parts_of(self, layer: int) -> tuple[int, ...]:
        """Indices of the parts that hold `layer`, ascending; none for a layer that is not delivered."""
        return self._parts_of.get(layer, ())

    def offset(self, part: int, layer: int) -> int:
        """Byte offset in the destination of `part`'s array of `layer`."""
        return self._places[part, layer][0]

    def position(self, part: int, layer: int) -> int:
        """Index of `layer` among the part's own layers."""
        return self._places[part, layer][1]

    def layer_bytes(self, part: int, layer: int) -> int:
        shape = self.parts[part]
        return shape.num_chunks * shape.slice_bytes[self.position(part, layer)]

    def unit_bytes(self, unit: int) -> int:
        return sum(self.layer_bytes(part, layer) for layer in self.units[unit] for part in self.parts_of(layer))
