"""Tiny seeded models, prompts, and what a hit must be equal to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers

from objectcache.connectors.transformers import TransformersConnector, cache_input

# Models this small gain nothing from more threads, which spin, and starve the others on a machine that is busy.
torch.set_num_threads(1)

CONFIG: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
GENERATE: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}


def tiny_llama(seed: int = 0, dtype: Any = torch.float32, **changes: Any) -> Any:
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(**{**CONFIG, **changes})
    return transformers.LlamaForCausalLM(config).to(dtype).eval()


def prompt(tokens: int, seed: int = 1) -> Any:
    return torch.randint(3, 300, (1, tokens), generator=torch.Generator().manual_seed(seed))


def after(prefix: Any, tokens: int, seed: int) -> Any:
    return torch.cat([prefix, prompt(tokens, seed)], dim=1)


def layers(cache: Any) -> list[Any]:
    return list(cache.layers)


def recomputed(model: Any, ids: Any) -> Any:
    with torch.no_grad():
        return model(ids, use_cache=True)


Connect = Callable[..., TransformersConnector]


def stored(connector: TransformersConnector, ids: Any) -> Any:
    """The outputs of a prefill whose KV is then in the cache."""
    outputs = connector.prefill(ids).outputs
    assert connector.flush(30)
    assert connector.stats.dropped == 0
    return outputs


def from_memory(model: Any, past: Any, ids: Any, tokens: int) -> Any:
    """What `model` computes of `ids` after `tokens` tokens of the filled cache `past`: the same arithmetic as a hit."""
    kept = transformers.DynamicCache()
    for index, layer in enumerate(layers(past)):
        kept.update(layer.keys[:, :, :tokens].clone(), layer.values[:, :, :tokens].clone(), index)
    with torch.no_grad():
        return model(ids[:, tokens:], use_cache=True, **cache_input(model, kept))
