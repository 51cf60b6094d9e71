"""vLLM's KV cache groups as plain facts: what kind, which layers in which order, how many bytes a block.

By the names of vLLM's classes, exactly: a class that is not listed may mean anything, and is not cached.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class GroupKind(StrEnum):
    """What the layers of a group keep."""

    FULL = "full"
    MLA = "mla"
    WINDOW = "window"
    OTHER = "other"


_KINDS = {
    "FullAttentionSpec": GroupKind.FULL,
    "MLAAttentionSpec": GroupKind.MLA,
    "SlidingWindowSpec": GroupKind.WINDOW,
    "SlidingWindowMLASpec": GroupKind.WINDOW,
}
_UNIFORM = "UniformTypeKVCacheSpecs"
_LATENT = ("MLAAttentionSpec", "SlidingWindowMLASpec")


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """`block_bytes` is what one block of the layer takes on this rank, without padding. `draft`: of the model that
    drafts. Layers compute in the order of (`draft`, `number`)."""

    name: str
    number: int
    draft: bool
    block_bytes: int
    dtype: str


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """One of vLLM's KV cache groups, as one rank has it: of a pipeline stage it may have no layer.

    `index` is vLLM's own. `layers` are in the order that they compute in. `window_tokens` is how many tokens before the
    next one its layers still see (0: all). Over the tensor ranks there are `tensor_shards` different ones: ranks beyond
    that hold copies. `problem` says why it cannot be cached.
    """

    index: int
    kind: GroupKind
    spec: str
    layers: tuple[LayerFacts, ...]
    block_tokens: int
    window_tokens: int = 0
    tensor_shards: int = 1
    problem: str = ""

    @property
    def layer_names(self) -> tuple[str, ...]:
        return tuple(layer.name for layer in self.layers)


def group_facts(group: Any, index: int, *, tensor_parallel: int, target_layers: int) -> GroupFacts:
    """Of vLLM's KVCacheGroupSpec. `target_layers` are the model's layers without drafts (0: not known)."""
    spec = group.kv_cache_spec
    by_layer = {
        name: spec.kv_cache_specs[name] if type(spec).__name__ == _UNIFORM else spec for name in group.layer_names
    }
    specs = list(by_layer.values()) or [spec]
    layers = [_layer(name, one, target_layers) for name, one in by_layer.items()]
    kinds = {_KINDS.get(type(one).__name__, GroupKind.OTHER) for one in specs}
    windows = {_window(one) for one in specs}
    shards = {_tensor_shards(one, tensor_parallel) for one in specs}
    problems = [*_problems_of_group(group), *(problem for one in specs for problem in _problems(one))]
    if any("indexer" in name for name in by_layer):
        problems.append("its layers are of an indexer, which asks for nothing before it reads")
    if len(kinds) > 1 or len(windows) > 1:
        problems.append("its layers keep KV of several kinds")
    return GroupFacts(
        index=index,
        kind=GroupKind.OTHER if problems else kinds.pop(),
        spec=", ".join(sorted({type(one).__name__ for one in specs})),
        layers=tuple(sorted(layers, key=lambda layer: (layer.draft, layer.number))),
        block_tokens=int(spec.block_size),
        window_tokens=max(windows),
        # Where layers are split in several ways, each rank's part is taken for one of its own.
        tensor_shards=shards.pop() if len(shards) == 1 else tensor_parallel,
        problem="; ".join(dict.fromkeys(problems)),
    )


def _layer(name: str, spec: Any, target_layers: int) -> LayerFacts:
    number = layer_number(name)
    first = name.split(".", 1)[0]
    draft = "draft" in first or "eagle" in first or 0 < target_layers <= number
    return LayerFacts(name, number, draft, _block_bytes(spec), str(getattr(spec, "dtype", "")).removeprefix("torch."))


def layer_number(layer_name: str) -> int:
    """The first number in a layer's name: "model.layers.7.self_attn.attn" is 7. 0 where there is none."""
    return next((int(word) for word in layer_name.split(".") if word.isdecimal()), 0)


def _problems_of_group(group: Any) -> Iterable[str]:
    if not getattr(group, "enable_kv_transfer", True) or getattr(group, "host_resident", False):
        yield "vLLM keeps it out of transfers"


def _problems(spec: Any) -> Iterable[str]:
    name = type(spec).__name__
    if name not in _KINDS:
        yield f"{name} is not cached: supported are full attention, MLA and sliding windows"
        return
    if getattr(spec, "non_causal", False) or getattr(spec, "non_causal_multi_token_decode", False):
        yield "it does not attend causally: its KV depends on later tokens"
    if not getattr(spec, "prefix_cacheable", True):
        yield "vLLM does not cache prefixes of it"
    if getattr(spec, "tokens_per_state", 1) != 1 or getattr(spec, "compress_ratio", 1) != 1:
        yield "it keeps states of several tokens"
    if "INDEX" in str(getattr(spec, "cache_role", "")).upper():
        yield "its layers are of an indexer, which asks for nothing before it reads"
    if getattr(spec, "model_version", None):
        yield f"it is in the format of {spec.model_version}"


def _window(spec: Any) -> int:
    window = getattr(spec, "sliding_window", None)
    if _KINDS.get(type(spec).__name__) is not GroupKind.WINDOW or not window:
        return 0
    # vLLM's window counts the token itself, which is never cached when it is computed.
    return max(1, int(window) - 1 + int(getattr(spec, "extra_retained_tokens", 0)))


def _block_bytes(spec: Any) -> int:
    for name in ("unpadded_page_size_bytes", "real_page_size_bytes"):
        size = getattr(spec, name, None)
        if size is not None:
            return int(size)
    return int(spec.page_size_bytes)


def _tensor_shards(spec: Any, tensor_parallel: int) -> int:
    """Ranks whose parts may be alike but are not known to be are told apart, which costs room and is never wrong."""
    known = getattr(spec, "max_tp_shards", None)
    if known is not None:
        shards = min(tensor_parallel, int(known))
    elif type(spec).__name__ in _LATENT:
        shards = 1
    else:
        shards = tensor_parallel
    return shards if tensor_parallel % shards == 0 else tensor_parallel
