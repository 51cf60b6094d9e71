"""The transformers connector when loading or storing goes wrong: never wrong, never stuck, never in the way."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import torch

from objectcache.cache import KVCache, RetrieveOptions
from objectcache.connectors.transformers import PrefixLoadError, cache_input
from objectcache.errors import (
    DeliveryTimeoutError,
    IntegrityError,
    StoreFullError,
    StoreUnavailableError,
)
from tests.connectors.scripted import ScriptedCache
from tests.connectors.tiny import (
    GENERATE,
    Connect,
    after,
    layers,
    prompt,
    recomputed,
    stored,
)


@pytest.mark.parametrize("fail_at", [0, 2, 3])
@pytest.mark.parametrize("failure", [IntegrityError("damaged"), StoreUnavailableError("gone")])
def test_a_failed_layer_means_recomputation(
    connect: Connect, cache: KVCache, model: Any, fail_at: int, failure: Any
) -> None:
    ids = prompt(100)
    stored(connect(model), ids)
    question = after(ids, 50, seed=2)
    script = ScriptedCache(cache, fail_at=fail_at, failure=failure)
    connector = connect(model, script)
    result = connector.prefill(question)
    assert torch.equal(result.outputs.logits, recomputed(model, question).logits)
    report = result.report
    assert (report.recomputed, report.matched_tokens, report.computed_tokens) == (True, 0, 150)
    assert report.error is failure
    assert len(report.timings) == fail_at
    assert script.closed == [False]
    assert connector.flush(30)
    stats = connector.stats
    assert (stats.load_failures, stats.recomputed, stats.loaded_bytes) == (1, 1, 0)
    # What was matched is not stored twice; what was recomputed after it is stored.
    assert (stats.stored_tokens, stats.dropped) == (48, 0)
    tokens, _ = connector.generate(question, store=False, **GENERATE)
    assert torch.equal(tokens, model.generate(question, **GENERATE))


def test_a_forward_never_goes_on_without_its_layer(connect: Connect, cache: KVCache, model: Any) -> None:
    ids = prompt(100)
    stored(connect(model), ids)
    connector = connect(model, ScriptedCache(cache, fail_at=2))
    past = connector.load(ids, store=True)
    for _ in range(2):
        with pytest.raises(PrefixLoadError):
            model(past.tail(ids), **cache_input(model, past))
    closed = connect(model).load(ids)
    closed.close()
    with pytest.raises(PrefixLoadError):
        model(closed.tail(ids), **cache_input(model, closed))


def test_a_late_layer_means_recomputation(connect: Connect, cache: KVCache, model: Any) -> None:
    ids = prompt(100)
    stored(connect(model), ids)
    script = ScriptedCache(cache, step=threading.Semaphore(0))
    connector = connect(model, script, options=RetrieveOptions(layers_per_unit=1, deadline_s=0.2))
    start_s = time.perf_counter()
    result = connector.prefill(ids)
    assert 0.2 <= time.perf_counter() - start_s < 10
    assert isinstance(result.report.error, DeliveryTimeoutError)
    assert torch.equal(result.outputs.logits, recomputed(model, ids).logits)


def test_a_failed_look_up_is_a_miss(connect: Connect, cache: KVCache, model: Any) -> None:
    ids = prompt(100)
    failure = StoreUnavailableError("no gateway")
    connector = connect(model, ScriptedCache(cache, match_error=failure, store_error=failure))
    result = connector.prefill(ids)
    assert (result.report.matched_tokens, result.report.recomputed) == (0, False)
    assert result.report.error is failure
    assert torch.equal(result.outputs.logits, recomputed(model, ids).logits)
    assert connector.flush(10)
    assert (connector.stats.lookup_failures, connector.stats.dropped_failed) == (1, 1)


@pytest.mark.parametrize("where", ["store", "write"])
def test_a_full_store_drops_and_disturbs_nothing(connect: Connect, cache: KVCache, model: Any, where: str) -> None:
    script = ScriptedCache(cache)
    writes = 0

    def full() -> None:
        nonlocal writes
        writes += 1
        if writes == 6:
            raise StoreFullError("full")

    if where == "store":
        script.store_error = StoreFullError("full")
    else:
        script.before_write = full
    connector = connect(model, script, segment_chunks=2)
    ids = prompt(100)
    result = connector.prefill(ids)
    assert torch.equal(result.outputs.logits, recomputed(model, ids).logits)
    assert connector.flush(30)
    stats = connector.stats
    assert (stats.dropped_full, stats.dropped, stats.stored_tokens) == (1, 1, 0)
    assert script.aborted in ({0} if where == "store" else {1, 2, 3})  # a segment may have been whole, and is discarded
    assert connector.load(ids).matched_tokens == 0


def test_an_unexpected_failure_of_storing_stays_in_the_background(connect: Connect, cache: KVCache, model: Any) -> None:
    def explode() -> None:
        raise ZeroDivisionError

    connector = connect(model, ScriptedCache(cache, before_write=explode))
    result = connector.prefill(prompt(100))
    recording = result.cache.recording
    assert recording is not None
    assert recording.wait(30)
    assert "ZeroDivisionError" in str(recording.error)
    assert connector.stats.dropped_failed == 1


def test_a_slow_store_drops_what_would_pile_up(connect: Connect, cache: KVCache, model: Any) -> None:
    go = threading.Event()
    script = ScriptedCache(cache, before_write=lambda: go.wait(30))
    layer_bytes = 96 * 2 * 2 * 16 * 4
    connector = connect(model, script, staging_bytes=2 * layer_bytes)
    ids = prompt(100)
    start_s = time.perf_counter()
    result = connector.prefill(ids)
    assert time.perf_counter() - start_s < 10
    assert torch.equal(result.outputs.logits, recomputed(model, ids).logits)
    go.set()
    assert connector.flush(30)
    assert (connector.stats.dropped_backlog, connector.stats.dropped) == (1, 1)
    assert connector.load(ids).matched_tokens == 0


def test_nothing_is_visible_of_a_forward_that_failed(connect: Connect, cache: KVCache, model: Any) -> None:
    script = ScriptedCache(cache)
    connector = connect(model, script)
    ids = prompt(100)

    def interrupted() -> None:
        with connector.load(ids, store=True) as past:
            model(ids, **cache_input(model, past))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    past = connector.load(ids, store=True)
    model(ids, **cache_input(model, past))
    past.close()
    assert connector.flush(30)
    assert script.aborted == len(script.stores)
    assert connector.stats.aborted == 2
    assert connector.load(ids).matched_tokens == 0


def test_a_forward_over_part_of_the_layers_is_not_stored(connect: Connect, model: Any) -> None:
    connector = connect(model)
    ids = prompt(40)
    with connector.load(ids, store=True) as past:
        layers(past)[0].update(torch.zeros(1, 2, 40, 16), torch.zeros(1, 2, 40, 16))
    assert connector.flush(30)
    assert (connector.stats.dropped_failed, connector.stats.stored_tokens) == (1, 0)
