from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from objectcache.connectors.vllm.naming.group_facts import GroupKind, group_facts


@dataclass
class FullAttentionSpec:
    block_size: int = 16
    dtype: str = "torch.bfloat16"
    num_kv_heads: int = 8
    unpadded_page_size_bytes: int = 4096
    page_size_bytes: int = 8192
    sliding_window: int | None = None
    attention_chunk_size: int | None = None
    non_causal: bool = False
    max_tp_shards: int | None = None
    tokens_per_state: int = 1
    prefix_cacheable: bool = True
    model_version: str | None = None


class MLAAttentionSpec(FullAttentionSpec):
    pass


class SlidingWindowSpec(FullAttentionSpec):
    pass


class MambaSpec(FullAttentionSpec):
    pass


class SinkFullAttentionSpec(FullAttentionSpec):
    pass


@dataclass
class UniformTypeKVCacheSpecs:
    block_size: int
    kv_cache_specs: dict[str, Any]


@dataclass
class Group:
    layer_names: list[str]
    kv_cache_spec: Any
    enable_kv_transfer: bool = True
    host_resident: bool = False
    extra: dict[str, Any] = field(default_factory=dict)


NAMES = ["model.layers.10.attn", "model.layers.2.attn"]


def facts(group: Group, *, tensor_parallel: int = 1, target_layers: int = 0) -> Any:
    return group_facts(group, 3, tensor_parallel=tensor_parallel, target_layers=target_layers)


def test_layers_come_in_the_order_that_they_compute_in() -> None:
    found = facts(
        Group([*NAMES, "draft_model.layers.0.attn", "model.layers.32.attn"], FullAttentionSpec()), target_layers=32
    )
    assert found.layer_names == (*reversed(NAMES), "draft_model.layers.0.attn", "model.layers.32.attn")
    assert [layer.draft for layer in found.layers] == [False, False, True, True]
    assert (found.index, found.kind, found.problem) == (3, GroupKind.FULL, "")


def test_blocks_are_counted_without_their_padding() -> None:
    assert [layer.block_bytes for layer in facts(Group(NAMES, FullAttentionSpec())).layers] == [4096, 4096]


def test_kinds() -> None:
    assert facts(Group(NAMES, MLAAttentionSpec())).kind is GroupKind.MLA
    found = facts(Group(NAMES, SlidingWindowSpec(sliding_window=64)))
    assert (found.kind, found.window_tokens) == (GroupKind.WINDOW, 63)
    # Full attention over a window keeps all blocks, where vLLM's hybrid manager is off.
    assert facts(Group(NAMES, FullAttentionSpec(sliding_window=64))).window_tokens == 0


@pytest.mark.parametrize(
    "spec",
    [
        MambaSpec(),
        SinkFullAttentionSpec(),
        FullAttentionSpec(non_causal=True),
        FullAttentionSpec(tokens_per_state=4),
        FullAttentionSpec(prefix_cacheable=False),
        MLAAttentionSpec(model_version="deepseek_v4"),
        UniformTypeKVCacheSpecs(16, {NAMES[0]: MambaSpec(), NAMES[1]: FullAttentionSpec()}),
        UniformTypeKVCacheSpecs(16, {NAMES[0]: SlidingWindowSpec(sliding_window=8), NAMES[1]: FullAttentionSpec()}),
    ],
)
def test_what_is_not_known_to_be_right_is_not_cached(spec: Any) -> None:
    found = facts(Group(NAMES, spec))
    assert found.problem
    assert found.kind is GroupKind.OTHER


def test_groups_that_vllm_keeps_out_of_transfers_are_not_cached() -> None:
    assert facts(Group(NAMES, FullAttentionSpec(), enable_kv_transfer=False)).problem
    assert facts(Group(NAMES, FullAttentionSpec(), host_resident=True)).problem


def test_layers_of_one_kind_and_several_sizes() -> None:
    specs = {NAMES[0]: MLAAttentionSpec(unpadded_page_size_bytes=100), NAMES[1]: MLAAttentionSpec()}
    found = facts(Group(NAMES, UniformTypeKVCacheSpecs(16, specs)))
    assert [layer.block_bytes for layer in found.layers] == [4096, 100]
    assert (found.kind, found.problem) == (GroupKind.MLA, "")


@pytest.mark.parametrize(
    ("spec", "shards"),
    [
        (FullAttentionSpec(num_kv_heads=2), 4),
        (FullAttentionSpec(num_kv_heads=1), 4),  # heads may be repeated, or not: groups have numbers of their own
        (FullAttentionSpec(num_kv_heads=2, max_tp_shards=2), 2),
        (MLAAttentionSpec(num_kv_heads=1), 1),
        (UniformTypeKVCacheSpecs(16, {NAMES[0]: MLAAttentionSpec(), NAMES[1]: FullAttentionSpec()}), 4),
    ],
)
def test_who_holds_what_of_tensor_ranks(spec: Any, shards: int) -> None:
    assert facts(Group(NAMES, spec), tensor_parallel=4).tensor_shards == shards


def test_an_indexer_is_left_to_the_engine() -> None:
    group = Group(["model.layers.0.self_attn.indexer.k_cache"], MLAAttentionSpec())
    assert "indexer" in facts(group).problem


def test_a_group_without_layers_on_this_stage() -> None:
    found = facts(Group([], FullAttentionSpec()))
    assert (found.layers, found.kind, found.problem) == ((), GroupKind.FULL, "")
