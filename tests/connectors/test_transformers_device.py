"""The way that models on a device go, with the CPU as the device: layers come ahead of the forward."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest
import torch

from objectcache.cache import KVCache
from objectcache.connectors.transformers import cache_input, cache_output
from objectcache.device import DeviceLoader, DeviceSaver
from objectcache.errors import IntegrityError
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

ACCELERATOR = "objectcache.connectors.transformers.accelerator"


@pytest.fixture(autouse=True)
def _device(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = DeviceLoader("cpu", staged=True, staging_bytes=5000)
    saver = DeviceSaver("cpu", staged=True, staging_bytes=5000)
    monkeypatch.setattr("objectcache.connectors.transformers.delivery.loader_of", lambda device: loader)
    monkeypatch.setattr(f"{ACCELERATOR}.saver_of", lambda device: saver)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_hit_is_bit_for_bit_the_prefix_in_memory(connect: Connect, dtype: Any) -> None:
    model = tiny_llama(dtype=dtype)
    connector = connect(model)
    document = prompt(160)
    first = stored(connector, after(document, 9, seed=2))
    question = after(document, 21, seed=3)
    result = connector.prefill(question)
    assert (result.report.matched_tokens, result.report.computed_tokens) == (160, 21)
    same = from_memory(model, cache_output(first), question, 160)
    assert torch.equal(result.outputs.logits, same.logits)
    for layer, expected in zip(layers(result.cache), layers(cache_output(same)), strict=True):
        assert torch.equal(layer.keys, expected.keys)
        assert torch.equal(layer.values, expected.values)
    assert connector.flush(30)
    longer = after(question, 30, seed=4)  # what was stored of the second prompt comes out of the adopted layers
    result = connector.prefill(longer)
    assert result.report.matched_tokens == 176
    assert torch.equal(result.outputs.logits, from_memory(model, cache_output(same), longer, 176).logits)


def test_generate_gives_the_same_tokens(connect: Connect) -> None:
    model = tiny_llama()
    connector = connect(model)
    document = prompt(100)
    stored(connector, document)
    question = after(document, 13, seed=5)
    tokens, report = connector.generate(question, **GENERATE)
    assert torch.equal(tokens, model.generate(question, **GENERATE))
    assert report.matched_tokens == 96


def test_a_tail_may_be_shorter_or_longer_than_said(connect: Connect, model: Any) -> None:
    connector = connect(model)
    ids = prompt(100)
    stored(connector, ids[:, :48])
    with connector.load(ids, store=True) as past, torch.no_grad():
        for start, stop in ((48, 60), (60, 99), (99, 100)):
            outputs = model(ids[:, start:stop], **cache_input(model, past))
    assert torch.allclose(outputs.logits[:, -1], recomputed(model, ids).logits[:, -1], atol=1e-5)
    assert connector.flush(30)
    assert connector.load(after(ids, 1, seed=2)).matched_tokens == 96
    longer = after(ids, 40, seed=3)
    with connector.load(ids) as past, torch.no_grad():
        outputs = model(longer[:, past.matched_tokens :], **cache_input(model, past))
    assert torch.allclose(outputs.logits[:, -1], recomputed(model, longer).logits[:, -1], atol=1e-5)


def test_the_forward_waits_for_each_layer_only(connect: Connect, cache: KVCache, model: Any) -> None:
    ids = prompt(100)
    stored(connect(model), ids)
    step = threading.Semaphore(1)
    script = ScriptedCache(cache, step=step)
    connector = connect(model, script)
    hooks = [layer.register_forward_hook(lambda *_: step.release()) for layer in model.model.layers]
    past = connector.load(ids)
    outputs = model(past.tail(ids), **cache_input(model, past))
    for hook in hooks:
        hook.remove()
    assert torch.allclose(outputs.logits, recomputed(model, ids).logits[:, 96:], atol=1e-5)
    assert [timing.layer for timing in past.timings] == [0, 1, 2, 3]
    assert connector.flush(10)
    assert script.released == 1
    assert connector.stats.loaded_bytes == past.matched_bytes > 0


def test_a_failing_layer_is_recomputed(connect: Connect, cache: KVCache, model: Any) -> None:
    ids = prompt(100)
    stored(connect(model), ids)
    script = ScriptedCache(cache, fail_at=2, failure=IntegrityError("damaged"))
    connector = connect(model, script)
    result = connector.prefill(ids)
    assert result.report.recomputed
    assert result.report.error is script.failure  # and not that somebody closed the retrieval
    assert torch.equal(result.outputs.logits, recomputed(model, ids).logits)
    assert connector.flush(10)
    assert (script.closed, script.stores) == ([False], [])
    assert script.released == 2  # of the load, and of what asked whether the prefix is to be stored anew: it is there


def test_without_memory_for_the_prefix_it_is_a_miss(
    connect: Connect, cache: KVCache, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = prompt(100)
    stored(connect(model), ids)
    script = ScriptedCache(cache)
    connector = connect(model, script)

    def full(*_: Any, **__: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("full")

    with monkeypatch.context() as patched:
        patched.setattr(f"{ACCELERATOR}.torch.empty", full)
        past = connector.load(ids)
    assert past.matched_tokens == 0
    assert "no memory" in str(past.error)
    assert connector.flush(10)
    assert (len(script.closed), script.released) == (1, 1)


def test_a_cache_that_is_just_dropped_gives_everything_back(connect: Connect, cache: KVCache, model: Any) -> None:
    ids = prompt(100)
    stored(connect(model), ids)
    script = ScriptedCache(cache, step=threading.Semaphore(0))
    connector = connect(model, script)
    past = connector.load(ids)
    del past
    gc.collect()
    assert connector.flush(10)
    assert (script.closed, script.released) == ([False], 1)


def test_layers_that_were_taken_are_the_models_alone(connect: Connect, model: Any) -> None:
    connector = connect(model)
    ids = prompt(100)
    stored(connector, ids)
    past = connector.load(ids)
    with torch.no_grad():
        model(past.tail(ids), **cache_input(model, past))
    assert connector.flush(10)
    for thread in threading.enumerate():
        if thread.name == "objectcache-device":
            thread.join(10)
    states = weakref.ref(layers(past)[0].keys._base)
    assert states() is not None
    layers(past)[0].keys = layers(past)[0].values = None
    gc.collect()
    assert states() is None
