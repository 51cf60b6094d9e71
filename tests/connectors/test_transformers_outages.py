"""What a cache that hangs, stalls, dies or lies costs those who generate: the deadline once, and never a token."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from objectcache.cache import KVCache, Match, PartId, RetrieveOptions
from objectcache.cache.retrieval import Retrieval
from objectcache.connectors.background import BackgroundThread
from objectcache.errors import DeliveryTimeoutError, NamespaceMismatchError, ObjectCacheError, StoreUnavailableError
from objectcache.keys import KeyChain, Namespace
from tests.connectors.scripted import ScriptedCache
from tests.connectors.tiny import GENERATE, Connect, after, prompt, stored
from tests.gateway.process import GatewayProcess, eventually, stopped

DEADLINE_S = 0.4


@dataclass
class Hanging(ScriptedCache):
    """Look-ups and requests for deliveries do not come back before `go` is set, or raise `unexpected`."""

    go: threading.Event = field(default_factory=threading.Event)
    hangs: str = "match"
    unexpected: Exception | None = None
    asked: int = 0
    under_way: int = 0
    leases: int = 0

    def match(self, namespace: Namespace, chain: KeyChain, *, parts: Sequence[PartId] | None = None) -> Match:
        self._hang("match")
        match = super().match(namespace, chain, parts=parts)
        self.leases += match.lease is not None
        return match

    def retrieve(
        self, match: Match, *, parts: Sequence[PartId] | None = None, options: RetrieveOptions | None = None
    ) -> Retrieval:
        self._hang("retrieve")
        return super().retrieve(match, parts=parts, options=options)

    def _hang(self, where: str) -> None:
        if where != self.hangs or threading.current_thread().name.startswith("objectcache-store"):
            return
        if self.unexpected is not None:
            raise self.unexpected
        self.asked += 1
        self.under_way += 1
        self.go.wait(60)
        self.under_way -= 1


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    begin_s = time.perf_counter()
    return call(), time.perf_counter() - begin_s


def damage(segment: Path) -> None:
    data = bytearray(segment.read_bytes())
    for at in range(8 << 10, len(data), 512):  # some of it is padding
        data[at] ^= 1
    segment.write_bytes(data)


def until_hit(prefill: Callable[[], Any]) -> Any:
    """The first prefill that loads, as the breaker lets one try after its pauses."""
    results: list[Any] = []

    def hit() -> bool:
        results.append(prefill())
        return bool(results[-1].report.matched_tokens)

    eventually(hit, "a hit")
    return results[-1]


@pytest.mark.parametrize("where", ["match", "retrieve"])
def test_a_cache_that_does_not_answer_costs_the_deadline_once(
    connect: Connect, cache: KVCache, model: Any, where: str
) -> None:
    ids = prompt(100)
    expected = stored(connect(model), ids)
    script = Hanging(cache, hangs=where)
    connector = connect(model, script, deadline_s=DEADLINE_S)
    result, took_s = timed(lambda: connector.prefill(ids))
    assert DEADLINE_S <= took_s < DEADLINE_S + 2
    assert isinstance(result.report.error, DeliveryTimeoutError)
    assert (result.report.matched_tokens, result.report.recomputed) == (0, False)
    assert torch.equal(result.outputs.logits, expected.logits)
    for _ in range(3):  # nobody asks, so nobody waits
        result = connector.prefill(ids)
        assert isinstance(result.report.error, StoreUnavailableError)
        assert torch.equal(result.outputs.logits, expected.logits)
    assert script.asked == 1
    assert (connector.stats.lookup_failures, connector.stats.left_alone) == (1, 3)
    script.go.set()
    assert until_hit(lambda: connector.prefill(ids)).report.matched_tokens == 96
    eventually(lambda: script.under_way == 0, "the late look-up has come back")
    assert connector.flush(30)
    # What came too late was given back too.
    eventually(lambda: script.released == script.leases and len(script.closed) == 2, "given back")


@pytest.mark.parametrize("where", ["match", "retrieve"])
@pytest.mark.parametrize("unexpected", [OSError("no route"), ZeroDivisionError()])
def test_what_nobody_expected_is_a_miss(
    connect: Connect, cache: KVCache, model: Any, where: str, unexpected: Exception
) -> None:
    ids = prompt(100)
    expected = stored(connect(model), ids)
    connector = connect(model, Hanging(cache, hangs=where, unexpected=unexpected))
    result = connector.prefill(ids)
    assert isinstance(result.report.error, ObjectCacheError)
    assert type(unexpected).__name__ in str(result.report.error)
    assert torch.equal(result.outputs.logits, expected.logits)


@pytest.mark.parametrize("device", [False, True])
def test_a_delivery_without_progress_costs_the_deadline_once(
    connect: Connect, cache: KVCache, model: Any, device: bool, request: pytest.FixtureRequest
) -> None:
    ids = prompt(100)
    expected = stored(connect(model), ids)
    if device:
        request.getfixturevalue("on_a_device")
    script = ScriptedCache(cache, step=threading.Semaphore(1))
    connector = connect(model, script, deadline_s=DEADLINE_S)
    result, took_s = timed(lambda: connector.prefill(ids))
    assert DEADLINE_S <= took_s < DEADLINE_S + 2
    assert result.report.recomputed
    assert isinstance(result.report.error, DeliveryTimeoutError)
    assert torch.equal(result.outputs.logits, expected.logits)
    again = connector.prefill(ids)
    assert isinstance(again.report.error, StoreUnavailableError)
    assert torch.equal(again.outputs.logits, expected.logits)
    script.step = None
    assert until_hit(lambda: connector.prefill(ids)).report.matched_tokens == 96
    assert connector.stats.load_failures == 1


@pytest.fixture
def on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers come ahead of the forward."""
    from objectcache.device import DeviceLoader

    loader = DeviceLoader("cpu", staged=True, staging_bytes=5000)
    monkeypatch.setattr("objectcache.connectors.transformers.delivery.loader_of", lambda device: loader)


def test_a_load_that_goes_on_may_take_longer_than_the_deadline(connect: Connect, cache: KVCache, model: Any) -> None:
    ids = prompt(100)
    stored(connect(model), ids)
    step = threading.Semaphore(0)
    connector = connect(model, ScriptedCache(cache, step=step), deadline_s=1.0)

    def land() -> None:
        for _ in range(4):
            time.sleep(0.4)
            step.release()

    threading.Thread(target=land, daemon=True).start()
    result, took_s = timed(lambda: connector.prefill(ids))
    assert (result.report.matched_tokens, result.report.recomputed) == (96, False)
    assert took_s >= 1.6


@dataclass
class Silent(ScriptedCache):
    """Look-ups fail as they are told to."""

    failures: list[ObjectCacheError] = field(default_factory=list)

    def match(self, namespace: Namespace, chain: KeyChain, *, parts: Sequence[PartId] | None = None) -> Match:
        if self.failures:
            raise self.failures.pop(0)
        return super().match(namespace, chain, parts=parts)


def test_any_answer_ends_an_outage(connect: Connect, cache: KVCache, model: Any) -> None:
    """A gateway that comes back empty knows no namespace: that is a miss, and it is there."""
    ids = prompt(100)
    stored(connect(model), ids)
    script = Silent(cache, failures=[StoreUnavailableError("gone"), NamespaceMismatchError("unknown")])
    connector = connect(model, script)
    assert isinstance(connector.prefill(ids, store=False).report.error, StoreUnavailableError)
    eventually(lambda: isinstance(connector.prefill(ids, store=False).report.error, NamespaceMismatchError), "asked")
    assert connector.prefill(ids, store=False).report.matched_tokens == 96


def test_a_failure_that_is_no_outage_is_no_reason_to_stop_asking(connect: Connect, cache: KVCache, model: Any) -> None:
    ids = prompt(100)
    stored(connect(model), ids)
    script = ScriptedCache(cache, fail_at=1)
    connector = connect(model, script, deadline_s=DEADLINE_S)
    assert connector.prefill(ids).report.recomputed
    script.fail_at = None
    assert connector.prefill(ids).report.matched_tokens == 96


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayProcess]:
    process = GatewayProcess(tmp_path / "gateway").start()
    yield process
    process.kill()


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_a_dead_gateway_costs_the_deadline_once(
    connect: Connect, model: Any, gateway: GatewayProcess, how: str
) -> None:
    ids = prompt(100)
    with gateway.open(target="tcp", streams=2, buffer_bytes=64 << 20, fence_s=0.3) as cache:
        connector = connect(model, cache, deadline_s=1.0)
        expected = stored(connector, ids)
        assert connector.prefill(ids, store=False).report.matched_tokens == 96
        if how == "killed":
            gateway.kill()
        else:
            ending = stopped(gateway.pid)
            ending.__enter__()
        begin_s = time.perf_counter()
        for _ in range(20):
            tokens, report = connector.generate(ids, store=False, **GENERATE)
            assert report.matched_tokens == 0
        waited_s = time.perf_counter() - begin_s
        assert torch.equal(tokens, model.generate(ids, **GENERATE))
        asked = connector.stats.loads - connector.stats.left_alone - 2  # … of those two before
        assert asked <= 4
        # Those that ask after pauses wait, too; all others compute for some milliseconds.
        assert waited_s < asked * 1.0 + 4
        if how == "killed":
            gateway.start()
        else:
            ending.__exit__(None, None, None)
        again = until_hit(lambda: connector.prefill(ids, store=False))
        assert torch.allclose(again.outputs.logits[:, -1], expected.logits[:, -1], atol=1e-5)


def test_a_gateway_killed_in_mid_load_means_recomputation(
    connect: Connect, model: Any, gateway: GatewayProcess
) -> None:
    ids = prompt(100)
    with gateway.open(target="tcp", streams=2, buffer_bytes=64 << 20, fence_s=0.3) as cache:
        expected = stored(connect(model, cache), ids)
        connector = connect(model, cache, deadline_s=5.0)
        workers = gateway.worker_pids
        for pid in workers:  # the delivery is accepted, and nothing comes
            os.kill(pid, signal.SIGSTOP)

        def kill() -> None:
            gateway.kill()
            for pid in workers:
                os.kill(pid, signal.SIGKILL)

        killing = threading.Timer(0.3, kill)
        killing.start()
        result, took_s = timed(lambda: connector.prefill(ids, store=False))
        killing.join()
        assert took_s < 4  # the connections end before the deadline
        assert result.report.recomputed
        assert torch.equal(result.outputs.logits, expected.logits)


def test_a_damaged_segment_is_recomputed_and_stored_again(
    connect: Connect, model: Any, gateway: GatewayProcess
) -> None:
    ids = prompt(100)
    with gateway.open(target="tcp", streams=2, buffer_bytes=64 << 20) as cache:
        connector = connect(model, cache)
        expected = stored(connector, ids)
        (segment,) = gateway.segments
        damage(segment)
        result = connector.prefill(ids)
        assert result.report.recomputed
        assert torch.equal(result.outputs.logits, expected.logits)
        # The gateway looks for itself before it believes that: until then it may match and fail once more.
        again = until_hit(lambda: (connector.prefill(ids), connector.flush(30))[0])
        assert not again.report.recomputed
        assert torch.allclose(again.outputs.logits[:, -1], expected.logits[:, -1], atol=1e-5)


def test_what_follows_a_damaged_prefix_is_stored_with_it(
    connect: Connect, cache: KVCache, model: Any, tmp_path: Path
) -> None:
    """Or it would match nothing before somebody comes with the prefix alone."""
    ids = prompt(64)
    connector = connect(model)
    stored(connector, ids)
    (segment,) = [path for path in tmp_path.rglob("*.obj") if "kv/seg/" in str(path)]
    damage(segment)
    longer = after(ids, 40, seed=2)
    assert connector.prefill(longer).report.recomputed
    assert connector.flush(30)
    assert connector.load(after(longer, 1, seed=3)).matched_tokens == 96


def test_a_streamer_sees_the_prompt_once(connect: Connect, cache: KVCache, model: Any) -> None:
    ids = prompt(100)
    stored(connect(model), ids)
    seen: list[list[int]] = []

    class Streamer:
        def put(self, value: Any) -> None:
            seen.append(value.reshape(-1).tolist())

        def end(self) -> None:
            seen.append([])

    connector = connect(model, ScriptedCache(cache, fail_at=2))
    tokens, report = connector.generate(ids, streamer=Streamer(), **GENERATE)
    assert report.recomputed
    assert [token for values in seen for token in values] == tokens[0].tolist()
    assert seen[-1] == []


def test_beams_are_computed_where_a_stored_prefix_does_not_serve_them(connect: Connect, model: Any) -> None:
    connector = connect(model)
    ids = prompt(100)
    stored(connector, ids)
    tokens, report = connector.generate(ids, num_beams=2, **GENERATE)
    assert torch.equal(tokens, model.generate(ids, num_beams=2, **GENERATE))
    assert (report.recomputed, report.matched_tokens) == (True, 0)


def test_a_job_that_fails_does_not_end_what_comes_behind_it() -> None:
    background = BackgroundThread()
    done = threading.Event()

    def fail() -> None:
        raise ZeroDivisionError

    background.submit(fail)
    background.submit(done.set)
    assert background.flush(10)
    assert done.is_set()
    background.close(1)
