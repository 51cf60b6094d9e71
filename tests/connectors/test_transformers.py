"""What the transformers connector loads and stores, with tiny seeded models on the CPU."""

from __future__ import annotations

import gc
import itertools
import threading
from typing import Any

import numpy as np
import pytest
import torch

from objectcache.cache import CHUNKWISE, KVCache, RetrieveOptions
from objectcache.connectors.transformers import cache_input, cache_output
from objectcache.errors import (
    RequestError,
)
from objectcache.keys import chain_keys
from tests.connectors.scripted import ScriptedCache
from tests.connectors.tiny import (
    GENERATE,
    Connect,
    after,
    from_memory,
    layers,
    prompt,
    recomputed,
    stored,
    tiny_llama,
)

# -- what comes out is what would have been computed ---------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layers_per_unit", [1, 3, CHUNKWISE])
def test_a_hit_is_bit_for_bit_the_prefix_in_memory(connect: Connect, dtype: Any, layers_per_unit: int) -> None:
    model = tiny_llama(dtype=dtype)
    connector = connect(model, options=RetrieveOptions(layers_per_unit=layers_per_unit))
    document = prompt(160)
    first = stored(connector, after(document, 9, seed=2))
    question = after(document, 21, seed=3)
    result = connector.prefill(question)
    assert (result.report.matched_tokens, result.report.computed_tokens) == (160, 21)
    assert result.report.matched_bytes == 160 * 4 * 2 * 2 * 16 * dtype.itemsize
    same = from_memory(model, cache_output(first), question, 160)
    assert torch.equal(result.outputs.logits, same.logits)
    full = recomputed(model, question).logits[:, 160:]
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 5e-2, torch.float16: 5e-3}[dtype]
    assert torch.allclose(result.outputs.logits, full, atol=tolerance)
    for layer, expected in zip(layers(result.cache), layers(cache_output(same)), strict=True):
        assert torch.equal(layer.keys, expected.keys)
        assert torch.equal(layer.values, expected.values)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_generate_gives_the_same_tokens(connect: Connect, attention: str) -> None:
    model = tiny_llama(attn_implementation=attention)
    connector = connect(model)
    document = prompt(100)
    stored(connector, document)
    question = after(document, 13, seed=5)
    expected = model.generate(question, **GENERATE)
    tokens, report = connector.generate(question, attention_mask=torch.ones_like(question), **GENERATE)
    assert torch.equal(tokens, expected)
    assert report.matched_tokens == 96
    with connector.load(question, store=True) as past:
        assert torch.equal(model.generate(question, **cache_input(model, past), **GENERATE), expected)


def test_a_tail_may_come_in_several_steps(connect: Connect, model: Any) -> None:
    connector = connect(model)
    ids = prompt(100)
    stored(connector, ids[:, :48])
    with connector.load(ids, store=True) as past, torch.no_grad():
        for start, stop in ((48, 60), (60, 99), (99, 100)):
            outputs = model(ids[:, start:stop], **cache_input(model, past))
    assert torch.allclose(outputs.logits[:, -1], recomputed(model, ids).logits[:, -1], atol=1e-5)
    assert connector.flush(30)
    assert connector.load(after(ids, 1, seed=2)).matched_tokens == 96


@pytest.mark.parametrize(("tokens", "matched"), [(15, 0), (16, 0), (17, 16), (64, 48), (65, 64), (80, 64), (200, 64)])
def test_matches_full_chunks_and_never_the_whole_prompt(
    connect: Connect, model: Any, tokens: int, matched: int
) -> None:
    connector = connect(model)
    ids = prompt(200)
    stored(connector, ids[:, :79])
    with connector.load(ids[:, :tokens]) as past:
        assert past.matched_tokens == matched
        assert past.get_seq_length() == matched
        assert past.get_mask_sizes(5, 0) == (matched + 5, 0)
        assert past.tail(ids[:, :tokens]).shape[1] == tokens - matched


def test_a_branch_in_the_middle_is_stored_from_there_on(connect: Connect, cache: KVCache, model: Any) -> None:
    script = ScriptedCache(cache)
    connector = connect(model, script)
    trunk = prompt(96)
    left, right = after(trunk, 64, seed=2), after(trunk, 64, seed=3)
    stored(connector, left)
    assert connector.prefill(right).report.matched_tokens == 96
    assert connector.flush(30)
    assert script.stores == [(0, 10), (6, 10)]
    for branch in (left, right):
        longer = after(branch, 20, seed=4)
        result = connector.prefill(longer, store=False)
        assert result.report.matched_tokens == 160
        full = recomputed(model, longer).logits[:, 160:]
        assert torch.allclose(result.outputs.logits, full, atol=1e-5)


def test_long_prompts_become_several_segments(connect: Connect, cache: KVCache, model: Any) -> None:
    script = ScriptedCache(cache)
    connector = connect(model, script, segment_chunks=4, chunk_tokens=8)
    ids = prompt(83)
    first = stored(connector, ids)
    assert script.stores == [(0, 4), (4, 8), (8, 10)]
    assert connector.stats.stored_tokens == 80
    longer = after(ids, 30, seed=2)
    result = connector.prefill(longer)
    assert result.report.matched_tokens == 80
    assert torch.equal(result.outputs.logits, from_memory(model, cache_output(first), longer, 80).logits)


def test_slices_are_k_then_v_by_head_token_and_dimension(connect: Connect, cache: KVCache) -> None:
    model = tiny_llama(dtype=torch.bfloat16)
    connector = connect(model)
    ids = prompt(50)
    past = cache_output(stored(connector, ids))
    namespace = connector.namespace
    with cache.retrieve(cache.match(namespace, chain_keys(namespace, ids[0].numpy()))) as retrieval:
        for layer in range(4):
            retrieval.wait(layer)
            view = retrieval.view(layer)
            assert view.shape == (3, 2 * 2 * 16 * 16 * 2)
            raw = np.ascontiguousarray(view).view(np.int16).reshape(3, 2, 2, 16, 16)
            for which, states in enumerate((layers(past)[layer].keys, layers(past)[layer].values)):
                for chunk in range(3):
                    expected = states[0, :, 16 * chunk : 16 * chunk + 16].contiguous().view(torch.int16).numpy()
                    np.testing.assert_array_equal(raw[chunk, which], expected)


def test_stores_a_cache_that_is_already_filled(connect: Connect, model: Any) -> None:
    connector = connect(model, staging_bytes=32 << 10)  # room for one layer
    ids = prompt(70)
    outputs = recomputed(model, ids)
    recording = connector.store(ids, cache_output(outputs))
    assert recording.wait(30)
    assert (recording.stored_tokens, recording.error) == (64, None)
    again = connector.store(ids, cache_output(outputs))
    assert again.wait(30)
    assert again.stored_tokens == 0
    question = after(ids, 5, seed=2)
    result = connector.prefill(question)
    assert torch.equal(result.outputs.logits, from_memory(model, cache_output(outputs), question, 64).logits)
    with pytest.raises(RequestError):
        connector.store(after(ids, 1, seed=2), cache_output(outputs))


# -- layer by layer ------------------------------------------------------------------------------------


def test_the_forward_waits_for_each_layer_only(connect: Connect, cache: KVCache, model: Any) -> None:
    ids = prompt(100)
    stored(connect(model), ids)
    step = threading.Semaphore(1)
    script = ScriptedCache(cache, step=step)
    connector = connect(model, script)
    # A layer lands only when the one before it has been computed: whoever waits for more than one never ends.
    hooks = [layer.register_forward_hook(lambda *_: step.release()) for layer in model.model.layers]
    past = connector.load(ids, options=RetrieveOptions(layers_per_unit=1, deadline_s=60))
    outputs = model(past.tail(ids), **cache_input(model, past))
    for hook in hooks:
        hook.remove()
    assert torch.allclose(outputs.logits, recomputed(model, ids).logits[:, 96:], atol=1e-5)
    timings = past.timings
    assert [timing.layer for timing in timings] == [0, 1, 2, 3]
    assert all(t.requested_s <= t.landed_s <= t.asked_s + t.waited_s <= t.adopted_s for t in timings)
    assert all(before.adopted_s < after.landed_s for before, after in itertools.pairwise(timings))
    assert script.closed == [True]
    assert connector.flush(10)
    assert script.released == 1
    assert connector.stats.loaded_bytes == past.matched_bytes > 0


def test_adopted_layers_own_their_memory(connect: Connect, cache: KVCache, model: Any) -> None:
    connector = connect(model)
    ids = prompt(100)
    stored(connector, ids)
    past = connector.load(ids)
    with torch.no_grad():
        model(past.tail(ids), **cache_input(model, past))
    kept = [(layer.keys.clone(), layer.values.clone()) for layer in layers(past)]
    past.close()
    with connector.load(after(prompt(100, seed=9), 1, seed=9)):
        gc.collect()
    for layer, (keys, values) in zip(layers(past), kept, strict=True):
        assert torch.equal(layer.keys, keys)
        assert torch.equal(layer.values, values)


def test_rearranging_a_cache_fetches_what_is_pending(connect: Connect, model: Any) -> None:
    connector = connect(model)
    ids = prompt(100)
    expected = cache_output(stored(connector, ids))
    past: Any = connector.load(ids)
    past.crop(-6)
    assert past.get_seq_length() == 90
    past.batch_repeat_interleave(3)
    past.batch_select_indices(torch.tensor([1]))
    past.reorder_cache(torch.tensor([0]))
    for layer, whole in zip(layers(past), layers(expected), strict=True):
        assert torch.equal(layer.keys, whole.keys[:, :, :90])
    past.reset()
    assert past.get_seq_length() == 0


def test_a_cache_that_is_just_dropped_gives_everything_back(connect: Connect, cache: KVCache, model: Any) -> None:
    ids = prompt(100)
    stored(connect(model), ids)
    script = ScriptedCache(cache, step=threading.Semaphore(0))
    connector = connect(model, script)
    past = connector.load(ids, store=True)
    del past
    gc.collect()
    assert connector.flush(10)
    assert script.closed == [False]
    assert script.released == 1
