"""The transformers connector measures windows, tells them, and loads or recomputes by them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from objectcache.cache import KVCache, Match, PartId, RetrieveOptions
from objectcache.cache.ahead import Ahead
from objectcache.cache.retrieval import Retrieval
from objectcache.connectors.transformers import TransformersConnector, cache_input
from objectcache.errors import DeliveryTimeoutError
from objectcache.keys import KeyChain, Namespace
from objectcache.scheduling.advice import Action
from objectcache.scheduling.advisor import Advisor
from objectcache.scheduling.windows import WindowModel
from tests.connectors.scripted import ScriptedCache
from tests.connectors.tiny import Connect, after, prompt, recomputed, stored
from tests.gateway.process import GatewayProcess, stopped

WINDOW_S = 0.02
"""Far above what a layer of a tiny model takes, and what a busy machine adds."""


@dataclass
class Telling(ScriptedCache):
    """Keeps what it is told of windows; its leases tell `rate_bytes_s`."""

    rate_bytes_s: float | None = None
    options: list[RetrieveOptions] = field(default_factory=list)
    matches: list[Match] = field(default_factory=list)
    corrections: list[tuple[Sequence[float], float]] = field(default_factory=list)
    in_one: list[int | None] = field(default_factory=list)
    """What was wanted at most by those that asked for it with the match."""

    def match_and_retrieve(
        self,
        namespace: Namespace,
        chain: KeyChain,
        *,
        parts: Sequence[PartId] | None = None,
        options: RetrieveOptions | None = None,
        most_tokens: int | None = None,
        ahead: Ahead | None = None,
    ) -> tuple[Match, Retrieval | None]:
        self.in_one.append(most_tokens)
        return super().match_and_retrieve(namespace, chain, parts=parts, options=options, most_tokens=most_tokens)

    def match(self, namespace: Namespace, chain: KeyChain, *, parts: Sequence[PartId] | None = None) -> Match:
        match = super().match(namespace, chain, parts=parts)
        return replace(match, lease=match.lease and replace(match.lease, rate_bytes_s=self.rate_bytes_s))

    def retrieve(
        self, match: Match, *, parts: Sequence[PartId] | None = None, options: RetrieveOptions | None = None
    ) -> Retrieval:
        assert options is not None
        self.options.append(options)
        self.matches.append(match)
        retrieval = super().retrieve(match, parts=parts, options=options)
        retrieval.on_windows = lambda windows_s, ready_in_s: self.corrections.append((windows_s, ready_in_s))
        return retrieval


@contextmanager
def slow_layers(model: Any, seconds: float = WINDOW_S) -> Iterator[None]:
    """Every layer computes for `seconds` after it has its KV."""
    hooks = [layer.mlp.register_forward_hook(lambda *_: time.sleep(seconds)) for layer in model.model.layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def taught(window_s: float, *steps: tuple[int, int]) -> WindowModel:
    model = WindowModel()
    for tokens, context in steps:
        model.observe(tokens, context, window_s)
    return model


def land_slowly(step: threading.Semaphore, layers: int) -> None:
    for _ in range(layers):
        time.sleep(0.1)
        step.release()


def test_windows_are_measured_without_the_waits(connect: Connect, cache: KVCache, model: Any) -> None:
    ids = prompt(100)
    stored(connect(model), ids)
    step = threading.Semaphore(0)
    script = Telling(cache, step=step)
    connector = connect(model, script)
    with slow_layers(model):
        past = connector.load(ids)
        threading.Thread(target=land_slowly, args=(step, 4), daemon=True).start()
        model(past.tail(ids), **cache_input(model, past))
    assert connector.flush(30)
    window_s = connector.advisor.window_s(4, 96)
    assert window_s is not None
    assert WINDOW_S <= window_s <= 3 * WINDOW_S  # a wait of 0.1 s before each would be far beyond it


def test_windows_are_predicted_told_and_corrected(connect: Connect, cache: KVCache, model: Any) -> None:
    ids = prompt(100)
    stored(connect(model), ids)
    script = Telling(cache)
    connector = connect(model, script)
    with slow_layers(model):
        connector.prefill(ids)
        assert connector.flush(30)
        assert script.options[0].windows_s == ()  # nothing was known
        assert len(script.corrections) == 1  # … until the first layers were there
        connector.prefill(after(ids, 4, seed=3))
    ((windows_s, ready_in_s),) = script.corrections[:1]
    assert len(windows_s) == 4
    assert WINDOW_S <= windows_s[0] <= 3 * WINDOW_S
    assert -10 < ready_in_s <= -2 * WINDOW_S  # the first layer was asked for so long ago
    told_s = script.options[1].windows_s
    assert len(told_s) == 4
    assert WINDOW_S <= told_s[0] <= 4 * WINDOW_S


def test_what_is_known_can_be_kept(connect: Connect, cache: KVCache, model: Any) -> None:
    ids = prompt(100)
    first = connect(model)
    stored(first, ids)
    script = Telling(cache)
    windows = WindowModel.from_map(first.advisor.windows.to_map())
    told = (windows.predict_s(4, 96),) * 4  # it learns from the prefill, too
    connect(model, script, windows=windows).prefill(ids)
    assert script.options[0].windows_s == told


def advised(connect: Connect, cache: KVCache, model: Any, rate: float | None, **more: Any) -> tuple[Any, Any]:
    script = Telling(cache, rate_bytes_s=rate)
    return connect(model, script, windows=a_millisecond_a_token(), load_or_recompute=True, **more), script


def a_millisecond_a_token() -> WindowModel:
    windows = WindowModel(attention_tokens=1e9)
    for tokens in (4, 100):
        windows.observe(tokens, 0, tokens * 1e-3)
    return windows


LAYER_BYTES = 96 * 2 * 2 * 16 * 4
"""Of what is stored of 100 tokens; computing it takes 0.1 s a layer."""


@pytest.mark.parametrize(
    ("rate", "action"), [(1e9, Action.LOAD), (1.0, Action.RECOMPUTE), (LAYER_BYTES / 0.1, Action.PARTIAL)]
)
def test_it_loads_what_is_worth_it(connect: Connect, cache: KVCache, model: Any, rate: float, action: Action) -> None:
    ids = prompt(100)
    stored(connect(model), ids)
    connector, script = advised(connect, cache, model, rate)
    question = after(ids, 4, seed=2)
    result = connector.prefill(question)
    assert torch.allclose(result.outputs.logits[:, -1], recomputed(model, question).logits[:, -1], atol=1e-4)
    report = result.report
    assert report.advice is not None
    assert (report.advice.action, report.stored_tokens, report.recomputed) == (action, 96, False)
    loaded = {Action.LOAD: range(96, 97), Action.RECOMPUTE: range(1), Action.PARTIAL: range(16, 96)}[action]
    assert report.matched_tokens in loaded
    assert report.matched_tokens % 16 == 0
    assert [match.tokens for match in script.matches] == ([report.matched_tokens] if report.matched_tokens else [])
    assert connector.flush(30)
    assert script.released == 1
    stats = connector.advisor.stats
    assert getattr(stats, action.value) == 1
    assert stats.settled == 1
    assert stats.error_s > 0
    # What is stored already is not stored again, loaded or not.
    assert connector.stats.stored_tokens == 0
    assert all(first >= 6 for first, _ in script.stores)


def test_a_part_that_was_worth_it_is_asked_for_in_one(
    connect: Connect, cache: KVCache, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = prompt(100)
    stored(connect(model), ids)
    monkeypatch.setattr(Advisor, "computed", lambda *seen: None)  # how fast a tiny model is
    connector, script = advised(connect, cache, model, LAYER_BYTES / 0.1)
    loaded = []
    for seed in (2, 3, 4):
        question = after(ids, 4, seed=seed)
        result = connector.prefill(question)
        assert torch.allclose(result.outputs.logits[:, -1], recomputed(model, question).logits[:, -1], atol=1e-4)
        assert result.report.stored_tokens == 96, "all that matched is known"
        loaded.append(result.report.matched_tokens)
        assert connector.flush(30)
    assert all(0 < tokens < 96 for tokens in loaded)
    assert script.in_one == loaded[1:], "nobody knew of any rate before the first"
    assert [match.tokens for match in script.matches] == loaded, "nothing was asked for twice"
    assert connector.advisor.stats.partial == 3, "each counts once"
    assert connector.stats.stored_tokens == 0
    assert script.released == 3


def test_what_is_under_way_stays_at_another_rate(
    connect: Connect, cache: KVCache, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A little less than was promised: another length would be advised, and is not worth asking again."""
    ids = prompt(100)
    stored(connect(model), ids)
    monkeypatch.setattr(Advisor, "computed", lambda *seen: None)
    connector, script = advised(connect, cache, model, LAYER_BYTES / 0.1)
    first = connector.prefill(after(ids, 4, seed=2)).report
    assert connector.flush(30)
    script.rate_bytes_s = 0.69 * LAYER_BYTES / 0.1
    other, other_script = advised(connect, cache, model, script.rate_bytes_s)
    alone = other.prefill(after(ids, 4, seed=3)).report
    assert alone.matched_tokens < first.matched_tokens
    connector.advisor._rate.first_byte_s = 0.02  # asking again would take as long
    report = connector.prefill(after(ids, 4, seed=3)).report
    assert report.matched_tokens == first.matched_tokens
    assert [match.tokens for match in script.matches] == [first.matched_tokens] * 2
    assert len(other_script.matches) == 1


@pytest.mark.parametrize("stale", [False, True])
def test_after_a_while_nobody_knows_of_a_rate(
    connect: Connect, cache: KVCache, model: Any, monkeypatch: pytest.MonkeyPatch, stale: bool
) -> None:
    ids = prompt(100)
    stored(connect(model), ids)
    connector, script = advised(connect, cache, model, 1e9)
    connector.prefill(after(ids, 4, seed=2))
    if stale:
        monkeypatch.setattr("objectcache.connectors.transformers.deciding.STALE_S", 0.0)
    connector.prefill(after(ids, 4, seed=3))
    assert script.in_one == ([] if stale else [None])


def test_what_is_asked_for_in_one_may_turn_out_not_to_be_worth_it(connect: Connect, cache: KVCache, model: Any) -> None:
    ids = prompt(100)
    stored(connect(model), ids)
    connector, script = advised(connect, cache, model, 1e9)
    assert connector.prefill(after(ids, 4, seed=2)).report.matched_tokens == 96
    script.rate_bytes_s = 1.0
    retrieved = []
    for seed in (3, 4):
        question = after(ids, 4, seed=seed)
        result = connector.prefill(question)
        assert torch.allclose(result.outputs.logits[:, -1], recomputed(model, question).logits[:, -1], atol=1e-4)
        assert (result.report.matched_tokens, result.report.stored_tokens) == (0, 96)
        retrieved.append(len(script.matches))
    assert retrieved == [2, 2], "all was worth it, and then not any more"
    assert connector.flush(30)
    assert len(script.closed) == 2
    assert script.released == 3


def test_a_load_that_does_not_come_is_given_up_in_time(connect: Connect, cache: KVCache, model: Any) -> None:
    ids = prompt(100)
    stored(connect(model), ids)
    connector, script = advised(connect, cache, model, None)
    script.step = threading.Semaphore(0)  # nothing lands
    start_s = time.perf_counter()
    result = connector.prefill(ids)
    assert time.perf_counter() - start_s < 5  # the deadline is 30 s
    assert result.report.recomputed
    assert isinstance(result.report.error, DeliveryTimeoutError)
    assert torch.equal(result.outputs.logits, recomputed(model, ids).logits)
    assert connector.flush(30)
    stats = connector.advisor.stats
    assert (stats.given_up, stats.settled) == (1, 1)
    # Who has just got nothing does not ask again at once.
    again = connector.prefill(after(ids, 3, seed=5))
    assert again.report.advice is not None
    assert again.report.advice.action is Action.RECOMPUTE


def test_a_gateway_that_stalls_costs_next_to_nothing(connect: Connect, model: Any, tmp_path: Path) -> None:
    """Its worker is stopped: an engine that takes 0.1 s a layer has its first token as without a cache."""
    gateway = GatewayProcess(tmp_path / "gateway").start()
    ids = prompt(100)
    try:
        with gateway.open(target="tcp", streams=2, buffer_bytes=64 << 20, fence_s=0.3) as cache, ExitStack() as stalled:
            stored(connect(model, cache), ids)
            assert connect(model, cache, load_or_recompute=False).prefill(ids).report.matched_tokens == 96
            connector = connect(model, cache, windows=a_millisecond_a_token(), load_or_recompute=True)
            with slow_layers(model, 0.1):
                start_s = time.perf_counter()
                connector.prefill(prompt(100, seed=9), store=False)
                without_s = time.perf_counter() - start_s
                for pid in gateway.worker_pids:
                    stalled.enter_context(stopped(pid))
                start_s = time.perf_counter()
                result = connector.prefill(ids)
                with_s = time.perf_counter() - start_s
            assert connector.advisor.stats.given_up == 1
            assert torch.equal(result.outputs.logits, recomputed(model, ids).logits)
            # 2 %, and what a busy machine adds to threads that wake up.
            assert with_s <= 1.02 * without_s + 0.25
    finally:
        gateway.kill()


def test_a_load_that_is_under_way_is_not_given_up(connect: Connect, cache: KVCache, model: Any) -> None:
    ids = prompt(100)
    stored(connect(model), ids)
    connector, _ = advised(connect, cache, model, 1e9)
    result = connector.prefill(ids)
    assert (result.report.matched_tokens, result.report.recomputed) == (96, False)


def test_the_first_request_of_all_is_loaded(connect: Connect, cache: KVCache, model: Any) -> None:
    ids = prompt(100)
    stored(connect(model), ids)
    connector: TransformersConnector = connect(model, Telling(cache, rate_bytes_s=1.0), load_or_recompute=True)
    report = connector.prefill(ids).report
    assert (report.matched_tokens, report.advice) == (96, None)
