"""Engines as facts, for tests of what follows from facts."""

from __future__ import annotations

from dataclasses import replace

from objectcache.connectors.vllm.naming.facts import EngineFacts, HashFacts, WeightsFacts
from objectcache.connectors.vllm.naming.group_facts import GroupFacts, GroupKind, LayerFacts

CONFIG = '{"hidden_size":128,"rope_parameters":{"rope_theta":10000.0}}'


def layers(*numbers: int, block_bytes: int = 1024, draft: bool = False) -> tuple[LayerFacts, ...]:
    return tuple(
        LayerFacts(f"model.layers.{number}.self_attn.attn", number, draft, block_bytes, "bfloat16")
        for number in numbers
    )


def full(*numbers: int, index: int = 0, **fields: object) -> GroupFacts:
    group = GroupFacts(index, GroupKind.FULL, "FullAttentionSpec", layers(*numbers), 16)
    return replace(group, **fields)  # type: ignore[arg-type]


def window(*numbers: int, index: int = 1, **fields: object) -> GroupFacts:
    return full(*numbers, index=index, kind=GroupKind.WINDOW, spec="SlidingWindowSpec", window_tokens=63, **fields)


def engine(**fields: object) -> EngineFacts:
    """A dense model of two layers on one GPU, in every way as it should be."""
    plain = EngineFacts(
        version="0.32.0",
        architecture="LlamaForCausalLM",
        weights=WeightsFacts("acme/model", "", CONFIG, device="cuda"),
        groups=(full(0, 1),),
        hashes=HashFacts("sha256", False, 16),
        dtype="bfloat16",
        kv_dtype="bfloat16",
        backends=("FLASH_ATTN",),
        block_layout="2 x bfloat16[2, 16, 8, 64] 0,1,2,3",
        python="3.11",
        recompute_failures=True,
        num_blocks=100,
    )
    return replace(plain, **fields)  # type: ignore[arg-type]
