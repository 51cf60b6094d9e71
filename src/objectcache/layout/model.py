"""What a model's KV is made of: layers in groups, held by shards, in chunks of bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate
from math import lcm
from typing import Any

from objectcache.errors import LayoutError

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
    first is its one writer. They are this deployment's affair: not part of what is written down or compared, so that
    replicated parts are found whatever the number of ranks, and empty in a layout that was read back.
    """

    index: int
    layers: tuple[int, ...]
    slice_bytes: tuple[int, ...]
    ranks: tuple[int, ...] = field(default=(0,), compare=False)

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
        if min(self.ranks, default=0) < 0 or len(set(self.ranks)) != len(self.ranks):
            raise LayoutError(f"shard {self.index}: ranks count from 0, each once, got {self.ranks}")

    @property
    def writer(self) -> int:
        """The one rank that stores this shard. Raises LayoutError where ranks are not known."""
        if not self.ranks:
            raise LayoutError(f"shard {self.index} was read back: which ranks hold it is not written down")
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

    @property
    def needed_chunks(self) -> int:
        """How many chunks before a boundary are needed to go on there; 0: all of them."""
        if self.rule is MatchRule.PREFIX:
            return 0
        return 1 if self.rule is MatchRule.STATE else self.window_chunks

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
                                ranks=(),
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
