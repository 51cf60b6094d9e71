"""Layouts: shapes and sizes of KV, groups and shards."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.errors import LayoutError
from objectcache.layout import KVGroup, KVLayout, KVShard, MatchRule, attention_group, pipeline_stages


@st.composite
def attention_arguments(draw: st.DrawFn) -> dict[str, int]:
    """GQA and MHA, with fewer, as many and more tensor ranks than heads."""
    num_layers = draw(st.integers(1, 12))
    parts = draw(st.integers(1, 8))  # shards a pipeline stage
    replicas = draw(st.integers(1, 4))
    heads = parts if replicas > 1 else parts * draw(st.integers(1, 4))
    return {
        "num_layers": num_layers,
        "num_kv_heads": heads,
        "head_dim": draw(st.sampled_from([1, 64, 80, 128])),
        "dtype_bytes": draw(st.sampled_from([1, 2, 4])),
        "chunk_tokens": draw(st.sampled_from([1, 16, 32])),
        "tensor_parallel": parts * replicas,
        "pipeline_parallel": draw(st.integers(1, num_layers)),
    }


@st.composite
def free_layouts(draw: st.DrawFn) -> KVLayout:
    """Any layers, sizes, rules and ranks that a layout may have."""
    base = draw(st.integers(1, 32))
    groups = []
    for number in range(draw(st.integers(1, 3))):
        shards = []
        for index in range(draw(st.integers(1, 3))):
            layers = sorted(draw(st.sets(st.integers(0, 100), min_size=1, max_size=5)))
            sizes = draw(st.lists(st.integers(1, 1 << 20), min_size=len(layers), max_size=len(layers)))
            shards.append(KVShard(index, tuple(layers), tuple(sizes), (2 * index, 2 * index + 1)))
        rule = draw(st.sampled_from(MatchRule))
        window = draw(st.integers(1, 9000)) if rule is MatchRule.WINDOW else 0
        chunk = base * (draw(st.integers(1, 4)) if number else 1)
        groups.append(KVGroup(f"group {number} ·", chunk, tuple(shards), rule, window))
    return KVLayout(tuple(groups))


@given(attention_arguments())
def test_attention_shards_hold_every_head_of_every_layer_once(arguments: dict[str, int]) -> None:
    layout = KVLayout.attention(**arguments)
    (group,) = layout.groups
    whole = 2 * arguments["chunk_tokens"] * arguments["dtype_bytes"] * arguments["head_dim"] * arguments["num_kv_heads"]
    for layer in range(arguments["num_layers"]):
        held = [shard.slice_bytes[shard.layers.index(layer)] for shard in group.shards if layer in shard.layers]
        assert sum(held) == whole
        assert len(held) == min(arguments["tensor_parallel"], arguments["num_kv_heads"])
    assert sum(shard.chunk_bytes for shard in group.shards) == whole * arguments["num_layers"]
    assert layout.bytes_per_token == pytest.approx(whole * arguments["num_layers"] / arguments["chunk_tokens"])


@given(attention_arguments())
def test_every_rank_holds_one_shard_and_every_shard_has_one_writer(arguments: dict[str, int]) -> None:
    (group,) = KVLayout.attention(**arguments).groups
    tensor, stages = arguments["tensor_parallel"], arguments["pipeline_parallel"]
    layers_of_stage = pipeline_stages(arguments["num_layers"], stages)
    for rank in range(tensor * stages):
        shard = group.shard_of(rank)
        assert shard is not None
        assert shard.layers == tuple(layers_of_stage[rank // tensor])
    assert sorted(rank for shard in group.shards for rank in shard.ranks) == list(range(tensor * stages))
    assert all(shard.writer == min(shard.ranks) for shard in group.shards)
    assert group.shard_of(tensor * stages) is None


def test_more_tensor_ranks_than_heads_share_shards() -> None:
    layout = KVLayout.attention(num_layers=4, num_kv_heads=2, head_dim=64, dtype_bytes=2, tensor_parallel=8)
    assert [shard.ranks for shard in layout.groups[0].shards] == [(0, 1, 2, 3), (4, 5, 6, 7)]


@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 4))
def test_latent_is_one_shard_a_stage_whatever_the_tensor_ranks(layers: int, tensor: int, stages: int) -> None:
    stages = min(stages, layers)
    layout = KVLayout.latent(
        num_layers=layers, latent_dim=576, dtype_bytes=2, tensor_parallel=tensor, pipeline_parallel=stages
    )
    shards = layout.groups[0].shards
    assert [layer for shard in shards for layer in shard.layers] == list(range(layers))
    assert [rank for shard in shards for rank in shard.ranks] == list(range(tensor * stages))
    assert len(shards) == stages
    assert layout.bytes_per_token == layers * 576 * 2


def test_sizes_of_known_models() -> None:
    llama_8b = KVLayout.attention(num_layers=32, num_kv_heads=8, head_dim=128, dtype_bytes=2)
    assert llama_8b.shard(0, 0).slice_bytes == (65_536,) * 32
    assert llama_8b.shard(0, 0).chunk_bytes == 2_097_152
    assert llama_8b.bytes_per_token == 131_072
    deepseek_v3 = KVLayout.latent(num_layers=61, latent_dim=512 + 64, dtype_bytes=2)
    assert deepseek_v3.shard(0, 0).slice_bytes == (18_432,) * 61
    assert deepseek_v3.bytes_per_token == 70_272


def test_groups_of_different_chunk_sizes() -> None:
    sizes = {"num_kv_heads": 2, "head_dim": 8, "dtype_bytes": 2}
    stages = pipeline_stages(6, 2)
    layout = KVLayout(
        (
            attention_group("full", [2, 5], **sizes, chunk_tokens=16, stages=stages),
            attention_group("sliding", [0, 1], **sizes, chunk_tokens=48, stages=stages, window_tokens=100),
            KVGroup("state", 32, (KVShard(0, (3, 4), (1000, 1000)),), MatchRule.STATE),
        )
    )
    assert layout.key_tokens == 16
    assert layout.boundary_tokens == 96
    assert [shard.layers for shard in layout.groups[0].shards] == [(2,), (5,)]
    sliding = layout.group(1)
    assert sliding.rule is MatchRule.WINDOW
    assert sliding.window_chunks == 3
    assert [shard.layers for shard in sliding.shards] == [(0, 1)]  # the second stage has no layer of it
    assert sliding.shard_of(1) is None
    # The state does not grow with the prefix.
    assert layout.bytes_per_token == 4 * (2 * 2 * 8 * 2)


@given(st.integers(1, 200), st.integers(1, 64))
def test_pipeline_stages_partition_the_layers(layers: int, stages: int) -> None:
    stages = min(stages, layers)
    split = pipeline_stages(layers, stages)
    assert [layer for stage in split for layer in stage] == list(range(layers))
    lengths = [len(stage) for stage in split]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] - lengths[-1] <= 1


@given(free_layouts())
def test_the_written_form_comes_back_as_the_same_layout(layout: KVLayout) -> None:
    written = json.dumps(layout.to_dict())
    again = KVLayout.from_dict(json.loads(written))
    assert again == layout
    assert hash(again) == hash(layout)
    assert json.dumps(again.to_dict()) == written


@given(free_layouts(), st.data())
def test_any_change_of_the_written_form_is_another_layout_or_none(layout: KVLayout, data: st.DataObject) -> None:
    changed = layout.to_dict()
    group = changed["groups"][data.draw(st.integers(0, len(changed["groups"]) - 1))]
    shard = group["shards"][data.draw(st.integers(0, len(group["shards"]) - 1))]
    where, name = data.draw(
        st.sampled_from([(group, key) for key in group if key != "shards"] + [(shard, key) for key in shard])
    )
    value = data.draw(
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.floats(),
            st.text(max_size=3),
            st.lists(st.integers(), max_size=3),
        ).filter(lambda v: json.dumps(v) != json.dumps(where[name]))
    )
    where[name] = value
    try:
        again = KVLayout.from_dict(changed)
    except LayoutError:
        return
    assert again != layout
    assert json.dumps(again.to_dict()) == json.dumps(changed)


BAD_FORMS: list[Any] = [
    None,
    [],
    {},
    {"groups": None},
    {"groups": []},
    {"groups": ["full"]},
    {"groups": [{"name": "full"}]},
    {"groups": float("inf")},
]


@pytest.mark.parametrize("data", BAD_FORMS, ids=repr)
def test_what_is_no_layout_is_refused(data: Any) -> None:
    with pytest.raises(LayoutError):
        KVLayout.from_dict(data)


@pytest.mark.parametrize("number", [16.0, "16", True, float("inf"), float("nan"), None, [16]], ids=repr)
def test_numbers_are_not_guessed(number: Any) -> None:
    data = KVLayout.attention(num_layers=1, num_kv_heads=1, head_dim=8, dtype_bytes=2).to_dict()
    data["groups"][0]["chunk_tokens"] = number
    with pytest.raises(LayoutError):
        KVLayout.from_dict(data)


def test_a_field_of_a_later_version_is_not_dropped_silently() -> None:
    data = KVLayout.attention(num_layers=1, num_kv_heads=1, head_dim=8, dtype_bytes=2).to_dict()
    data["groups"][0]["compression"] = "zstd"
    with pytest.raises(LayoutError, match="unknown"):
        KVLayout.from_dict(data)


SHARD = KVShard(0, (0,), (8,))


@pytest.mark.parametrize(
    "fields",
    [
        {"layers": (), "slice_bytes": ()},
        {"slice_bytes": (8, 8)},
        {"layers": (1, 0), "slice_bytes": (8, 8)},
        {"layers": (0, 0), "slice_bytes": (8, 8)},
        {"layers": (-1,)},
        {"layers": (1 << 12,)},
        {"slice_bytes": (0,)},
        {"slice_bytes": ((1 << 30) + 1,)},
        {"index": -1},
        {"index": 1 << 12},
        {"ranks": (-1,)},
        {"ranks": (1, 1)},
    ],
    ids=repr,
)
def test_impossible_shards(fields: dict[str, Any]) -> None:
    with pytest.raises(LayoutError):
        KVShard(**{"index": 0, "layers": (0,), "slice_bytes": (8,), **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "x" * 65},
        {"chunk_tokens": 0},
        {"chunk_tokens": (1 << 16) + 1},
        {"shards": ()},
        {"shards": (KVShard(1, (0,), (8,)),)},
        {"shards": (SHARD, KVShard(1, (0,), (8,), (1, 0)))},
        {"rule": MatchRule.WINDOW},
        {"window_tokens": 5},
        {"window_tokens": -5},
        {"rule": MatchRule.WINDOW, "window_tokens": -5},
    ],
    ids=repr,
)
def test_impossible_groups(fields: dict[str, Any]) -> None:
    with pytest.raises(LayoutError):
        KVGroup(**{"name": "full", "chunk_tokens": 16, "shards": (SHARD,), **fields})


def test_impossible_layouts() -> None:
    full = KVGroup("full", 16, (SHARD,))
    for groups in [(), (full, full), (full, KVGroup("other", 24, (SHARD,)))]:
        with pytest.raises(LayoutError):
            KVLayout(groups)
    many = tuple(KVGroup(str(number), 16, (SHARD,)) for number in range(65))
    with pytest.raises(LayoutError):
        KVLayout(many)
    assert len(KVLayout(many[:64]).groups) == 64


@pytest.mark.parametrize(
    "fields",
    [
        {"num_layers": 0},
        {"num_kv_heads": 0},
        {"num_kv_heads": 8, "tensor_parallel": 3},
        {"num_kv_heads": 8, "tensor_parallel": 12},
        {"tensor_parallel": 0},
        {"pipeline_parallel": 0},
        {"pipeline_parallel": 3},
        {"head_dim": 0},
        {"chunk_tokens": 0},
    ],
    ids=repr,
)
def test_impossible_attention(fields: dict[str, int]) -> None:
    with pytest.raises(LayoutError):
        KVLayout.attention(**{"num_layers": 2, "num_kv_heads": 8, "head_dim": 64, "dtype_bytes": 2, **fields})


def test_parts_outside_the_layout() -> None:
    layout = KVLayout((KVGroup("full", 16, (SHARD,)),))
    assert layout.shard(0, 0) is SHARD
    for group, shard in [(-1, 0), (1, 0), (0, -1), (0, 1)]:
        with pytest.raises(LayoutError):
            layout.shard(group, shard)
