"""The model: a real architecture with random weights, the same in every process."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from objectcache.demo.options import ModelSize
from objectcache.demo.prompts import VOCABULARY


def build_model(size: ModelSize) -> Any:
    """A LlamaForCausalLM of `size` in float32, in eval mode, its weights drawn from `size.seed`."""
    torch.manual_seed(size.seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        head_dim=size.head_dim,
        max_position_embeddings=16384,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model: Any = LlamaForCausalLM(config)
    return model.eval()
