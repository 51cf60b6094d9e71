"""Which models and requests the transformers connector serves, and when KV may be reused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from objectcache.cache import KVCache
from objectcache.connectors.transformers import TransformersConnector, cache_output, weights_fingerprint
from objectcache.errors import (
    ConfigError,
    LayoutError,
    RequestError,
)
from tests.connectors.tiny import (
    CONFIG,
    Connect,
    after,
    from_memory,
    prompt,
    stored,
    tiny_llama,
)


def test_the_namespace_follows_everything_that_changes_kv(cache: KVCache, connect: Connect) -> None:
    model = tiny_llama()
    base = connect(model).namespace
    assert connect(tiny_llama()).namespace == base
    assert connect(tiny_llama(seed=1)).namespace.differences(base).keys() == {"model"}
    assert connect(model, salt="tenant").namespace.differences(base).keys() == {"salt_sha256"}
    assert connect(model, epoch=1).namespace.differences(base).keys() == {"epoch"}
    assert connect(model, adapter="lora-7").namespace.differences(base).keys() == {"adapter"}
    assert "extra" in connect(tiny_llama(rms_norm_eps=1e-3)).namespace.differences(base)
    eager = connect(tiny_llama(attn_implementation="eager")).namespace
    assert eager.differences(base).keys() == {"attention"}
    half = connect(tiny_llama(dtype=torch.float16)).namespace
    assert {"kv_dtype", "layout", "model"} <= half.differences(base).keys()
    given = connect(model, weights_fingerprint="release-3").namespace
    assert given.model == "release-3"


def test_weights_changed_in_place_are_another_model(connect: Connect) -> None:
    model = tiny_llama()
    connector = connect(model)
    ids = prompt(50)
    stored(connector, ids)
    before = weights_fingerprint(model)
    assert connector.load(ids).matched_tokens == 48
    with torch.no_grad():
        model.model.layers[3].mlp.up_proj.weight[5, 7] += 1.0
    assert connector.load(ids).matched_tokens == 0
    with torch.no_grad():
        model.model.layers[3].mlp.up_proj.weight[5, 7] -= 1.0
    assert weights_fingerprint(copy.deepcopy(model)) == weights_fingerprint(model)
    assert before == weights_fingerprint(tiny_llama())


def test_refuses_models_whose_kv_is_not_plain_full_attention(cache: KVCache) -> None:
    small = {**CONFIG, "hidden_size": 32, "num_hidden_layers": 2}
    mamba = transformers.MambaConfig(vocab_size=50, hidden_size=16, state_size=4, num_hidden_layers=2)
    mla = transformers.DeepseekV3Config(
        **{**small, "num_key_value_heads": 4},
        moe_intermediate_size=16,
        n_routed_experts=4,
        n_group=2,
        topk_group=1,
        num_experts_per_tok=2,
        q_lora_rank=8,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
    )
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    refused: list[Any] = [
        transformers.MistralForCausalLM(transformers.MistralConfig(**small, sliding_window=32)),
        transformers.MambaForCausalLM(mamba),
        transformers.DeepseekV3ForCausalLM(mla),
        transformers.LlamaForCausalLM(transformers.LlamaConfig(**small, rope_parameters=dynamic)),
        transformers.T5ForConditionalGeneration(
            transformers.T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2)
        ),
    ]
    for model in refused:
        with pytest.raises(LayoutError, match=r"full attention|depends on later tokens"):
            TransformersConnector(cache, model.eval())


def test_other_plain_architectures_work(connect: Connect) -> None:
    gpt2 = transformers.GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=2, n_positions=256)
    qwen = transformers.Qwen3Config(**{**CONFIG, "head_dim": 24})
    models: list[Any] = [transformers.GPT2LMHeadModel(gpt2), transformers.Qwen3ForCausalLM(qwen)]
    for model in models:
        connector = connect(model.eval())
        ids = prompt(70)
        first = stored(connector, ids)
        question = after(ids, 8, seed=2)
        result = connector.prefill(question)
        assert result.report.matched_tokens == 64
        assert torch.equal(result.outputs.logits, from_memory(model, cache_output(first), question, 64).logits)


def test_requests_that_keys_cannot_stand_for_are_refused(connect: Connect, model: Any) -> None:
    connector = connect(model)
    ids = prompt(40)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    refused: list[Callable[[], Any]] = [
        lambda: connector.load(torch.cat([ids, ids])),
        lambda: connector.load(ids[0]),
        lambda: connector.load(ids[:, :0]),
        lambda: connector.prefill(ids, attention_mask=mask),
        lambda: connector.prefill(ids, position_ids=torch.arange(3, 43)[None]),
        lambda: connector.prefill(ids, inputs_embeds=torch.zeros(1, 40, 64)),
        lambda: connector.generate(ids, use_cache=False),
    ]
    for request in refused:
        with pytest.raises(RequestError):
            request()
    training = tiny_llama()
    connector = connect(training)
    training.train()
    with pytest.raises(RequestError, match="eval"):
        connector.prefill(ids)


def test_unnamed_adapters_are_refused(cache: KVCache) -> None:
    model = tiny_llama()
    model.peft_config = {"default": object()}
    with pytest.raises(ConfigError, match="adapter"):
        TransformersConnector(cache, model)
    TransformersConnector(cache, model, adapter="sha256:1234").close()
