from __future__ import annotations

import pytest
import torch

from objectcache.connectors.vllm.naming.facts import block_layout
from objectcache.errors import ConfigError
from tests.connectors.vllm.described import engine, full, layers, window

A, B = "model.layers.0.self_attn.attn", "model.layers.1.self_attn.attn"


def layout(*caches: torch.Tensor, blocks: int = 10) -> str:
    return block_layout(dict(zip((A, B), caches, strict=False)), blocks, (A, B)[: len(caches)])


def test_layers_that_are_alike_are_counted() -> None:
    cache = torch.zeros(10, 2, 16, 64)
    assert layout(cache, cache) == "2 x float32[2, 16, 64] 0,1,2"
    assert layout(cache, torch.zeros(10, 4, 16, 64)) == "1 x float32[2, 16, 64] 0,1,2; 1 x float32[4, 16, 64] 0,1,2"


def test_layout_does_not_depend_on_how_many_blocks_there_are() -> None:
    shape = (2, 10, 16, 8, 64)
    more = (2, 1000, 16, 8, 64)
    assert layout(torch.zeros(shape)) == layout(torch.zeros(more), blocks=1000) == "1 x float32[2, 16, 8, 64] 0,1,2,3"


def test_the_order_in_memory_counts() -> None:
    nhd = torch.zeros(10, 16, 8, 64)
    hnd = torch.zeros(10, 8, 16, 64).transpose(1, 2)
    assert nhd.shape == hnd.shape
    assert layout(nhd) != layout(hnd)


def test_blocks_that_kernels_cut_are_told_apart() -> None:
    assert layout(torch.zeros(20, 2, 16, 64)) == "1 x float32[2, 16, 64] 0,1,2 in 2 parts"


def test_caches_that_are_not_there_or_have_no_blocks() -> None:
    with pytest.raises(ConfigError, match=B):
        block_layout({A: torch.zeros(10, 2)}, 10, (A, B))
    with pytest.raises(ConfigError, match="blocks"):
        layout(torch.zeros(3, 7))


def test_caches_of_several_tensors() -> None:
    assert block_layout({A: [torch.zeros(10, 4), torch.zeros(10, 8)]}, 10, (A,)) == "1 x float32[4] 0 + float32[8] 0"


def test_a_rank_among_tensor_ranks_and_stages() -> None:
    facts = engine(tensor_parallel=4, tensor_rank=1, pipeline_parallel=2, stage=1)
    assert (facts.rank, facts.ranks) == (5, 8)


def test_layers_of_all_groups_in_the_order_that_they_compute_in() -> None:
    drafts = layers(0, draft=True)
    facts = engine(groups=(full(1, 3), window(0, 2), full(index=2, layers=drafts)))
    assert [layer.number for layer in facts.layers] == [0, 1, 2, 3, 0]
    assert facts.layers[-1].draft


def test_problems_are_all_told() -> None:
    assert engine().problem == ""
    assert engine(groups=()).problem == "the model keeps no KV"
    facts = engine(problems=("no",), groups=(full(0, problem="odd"),))
    assert facts.problem == "no; KV cache group 0: odd"


@pytest.mark.parametrize(("version", "minor"), [("0.32.0", (0, 32)), ("0.28.1+cpu", (0, 28)), ("1.2rc1.dev3", None)])
def test_versions(version: str, minor: tuple[int, int] | None) -> None:
    if minor is not None:
        assert engine(version=version).minor_version == minor
    else:
        with pytest.raises(ConfigError):
            _ = engine(version=version).minor_version


def test_what_a_worker_has_seen() -> None:
    cache = torch.zeros(100, 2, 16)
    seen = engine().seen({A: cache, B: [cache, cache]})
    assert seen.block_layout == "1 x float32[2, 16] 0,1; 1 x float32[2, 16] 0,1 + float32[2, 16] 0,1"
    assert [layer.block_bytes for layer in seen.layers] == [128, 256]
