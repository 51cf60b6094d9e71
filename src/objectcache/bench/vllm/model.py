"""A Llama of seeded random weights, in a folder that vLLM loads."""

from __future__ import annotations

from pathlib import Path

from objectcache.bench.vllm.settings import Llama

_SPREAD = 0.05
"""Of the weights: wide enough for tokens to depend on all of the prompt."""


def write_model(folder: Path, llama: Llama, max_tokens: int, seed: int) -> None:
    """In float32, without a tokenizer: prompts are token ids. Needs transformers."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=llama.vocabulary,
        hidden_size=llama.hidden,
        intermediate_size=llama.intermediate,
        num_hidden_layers=llama.layers,
        num_attention_heads=llama.heads,
        num_key_value_heads=llama.heads,
        max_position_embeddings=max_tokens,
        initializer_range=_SPREAD,
        dtype="float32",
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
