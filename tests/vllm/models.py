"""Tiny models with random weights, one for each way in which vLLM keeps KV. No tokenizer: tests ask with token ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

VOCABULARY = 512
_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    # Wide enough that attention is sharp, and that what is generated depends on all of the prompt.
    "initializer_range": 0.2,
}


def _llama() -> Any:
    """Grouped queries, one KV group."""
    from transformers import LlamaConfig

    return LlamaConfig(num_key_value_heads=2, head_dim=32, **_COMMON)


def _wide_llama() -> Any:
    """Its layers take a while to compute: some 60 ms for 512 tokens on one core."""
    from transformers import LlamaConfig

    sizes: dict[str, Any] = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}
    return LlamaConfig(num_key_value_heads=4, head_dim=64, **{**_COMMON, **sizes, "initializer_range": 0.05})


def _gemma3() -> Any:
    """Two KV groups: sliding windows of 64 tokens, and full attention."""
    from transformers import Gemma3TextConfig

    kinds = ["sliding_attention", "full_attention"] * 2
    return Gemma3TextConfig(num_key_value_heads=2, head_dim=32, sliding_window=64, layer_types=kinds, **_COMMON)


def _deepseek2() -> Any:
    """MLA: one latent vector a token, of the size that vLLM's kernel for CPUs knows; positions scaled as DeepSeek does
    (with plain ones, vLLM's kernel reads other memory: what a prompt yields then depends on what runs beside it)."""
    from transformers import DeepseekV2Config

    latent: dict[str, Any] = {"kv_lora_rank": 512, "q_lora_rank": None, "qk_nope_head_dim": 32, "qk_rope_head_dim": 64}
    experts: dict[str, Any] = {
        "first_k_dense_replace": 4,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
    }
    groups: dict[str, Any] = {"n_group": 1, "topk_group": 1, "moe_intermediate_size": 64}
    yarn = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 1024}
    latent["rope_parameters"] = {**yarn, "mscale": 1.0, "mscale_all_dim": 1.0, "beta_fast": 32, "beta_slow": 1}
    return DeepseekV2Config(num_key_value_heads=4, v_head_dim=32, **latent, **experts, **groups, **_COMMON)


_CONFIGS: Mapping[str, Callable[[], Any]] = {
    "llama": _llama,
    "wide-llama": _wide_llama,
    "gemma3": _gemma3,
    "deepseek2": _deepseek2,
}
BLOCK_TOKENS: Mapping[str, int] = {"llama": 32, "wide-llama": 32, "gemma3": 32, "deepseek2": 16}
"""On CPU: multiples of 32, and always 16 with MLA."""


def make(name: str, folder: Path) -> Path:
    """Config and weights of model `name` in `folder / name`, where they stay. Needs transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    model_folder = folder / name
    if not (model_folder / "config.json").exists():
        torch.manual_seed(0)
        config = _CONFIGS[name]()
        config.dtype = "float32"
        auto: Any = AutoModelForCausalLM
        auto.from_config(config).float().save_pretrained(model_folder)
    return model_folder
