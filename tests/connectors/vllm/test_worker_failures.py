"""Workers over stores that are slow, hang, or hold damage: nobody waits for longer than was said, nothing wrong is
written."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

import objectcache
from objectcache.cache import KVCache
from objectcache.cache.core import CacheCore
from objectcache.cache.local import LocalCache
from objectcache.connectors.vllm.messages import Orders, Stage
from objectcache.connectors.vllm.options import VllmOptions
from objectcache.stores import MemoryStore
from objectcache.stores.latency import LatencyStore
from tests.connectors.vllm.workers import BLOCK_TOKENS, CACHES, LAYERS, NUM_BLOCKS, Worker, one_group, prompt_of

SLICE_BYTES = CACHES["cpu"]().numel() * 4 // NUM_BLOCKS
DEADLINE_S = 0.4
OPTIONS = VllmOptions("memory://", advise=False, store_min_tokens=0, deadline_s=DEADLINE_S)
BLOCKS = [1, 2, 3, 4, 5, 6]
OTHERS = [21, 22, 23, 24, 25, 26]
TOKENS = 6 * BLOCK_TOKENS


class NearStore(LatencyStore):
    """Read layer by layer, in order: one read at a time."""

    far: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__(MemoryStore(1 << 30), before=self._before)
        self._turn = threading.Lock()
        self.delay_s = 0.0
        self.reads = 0
        self.stop_after: int | None = None
        self.go_on = threading.Event()

    def _before(self, kind: str, name: str, offset: int) -> None:
        if kind != "get" or not name.startswith(".kv/seg/") or offset % 4096:  # slices begin there, not digests
            return
        with self._turn:
            self.reads += 1
            if self.stop_after is not None and self.reads > self.stop_after:
                self.go_on.wait(20)
            time.sleep(self.delay_s)


@pytest.fixture
def store() -> Iterator[NearStore]:
    store = NearStore()
    yield store
    store.go_on.set()


@pytest.fixture
def cache(store: NearStore, tmp_path: Path) -> Iterator[KVCache]:
    cache = LocalCache(CacheCore.open(store, tmp_path / "catalog"), buffer_bytes=64 << 20)
    yield cache
    store.go_on.set()
    cache.close()


@pytest.fixture
def worker(cache: KVCache, store: NearStore) -> Iterator[Worker]:
    """One that has stored a prompt, and has other things in its blocks since."""
    worker = stored(cache, OPTIONS)
    store.reads = 0
    yield worker
    store.go_on.set()
    worker.close()


def stored(cache: KVCache, options: VllmOptions) -> Worker:
    worker = Worker(one_group(SLICE_BYTES), CACHES["cpu"], cache, options)
    worker.fill(1)
    worker.save(prompt_of(6), [BLOCKS])
    worker.fill(2)
    return worker


def fetching(worker: Worker, reads: Callable[[], bool] = lambda: True) -> int:
    attempt = worker.look_up(prompt_of(6))
    worker.run(lambda: worker.stage(attempt) is not None and reads())
    return attempt


@pytest.mark.timing
def test_with_a_delay_for_each_layer_a_step_waits_for_the_first_one_only(worker: Worker, store: NearStore) -> None:
    store.delay_s = 0.03
    attempt = fetching(worker)
    assert worker.stage(attempt) is Stage.FETCHING
    load = worker.load(attempt, 0, TOKENS, [OTHERS])
    worker.step(Orders(0, loads=(load,), tokens=64), compute_s=0.08)
    assert not worker.failed
    waits = [worker.waited_s[name] for name in worker.names]
    assert waits[0] > 0.01
    assert max(waits[1:]) < 0.01
    told = worker.side.take_stats().waits
    assert [told[layer].count for layer in range(LAYERS)] == [1] * LAYERS
    assert told[0].longest_s > 0.01 > told[1].longest_s


@pytest.mark.timing
def test_fits_when_the_rest_comes_within_the_windows(worker: Worker, store: NearStore) -> None:
    for _ in range(4):  # windows of 50 ms
        worker.step(Orders(0, tokens=64, context=TOKENS), compute_s=0.05)
    store.delay_s = 0.03
    attempt = worker.look_up(prompt_of(6), tokens=TOKENS + 64)
    worker.run(lambda: worker.stage(attempt) is Stage.STAGED)
    told = [progress for progress in worker.progress[attempt] if progress.stage is Stage.FETCHING]
    assert told[0].fits_in_s is None, "nothing is known of the rate before something has come"
    fits = [progress.fits_in_s for progress in told if progress.fits_in_s is not None]
    assert max(fits) < 2 * 0.03, "not as long as all of it takes"
    assert fits[-1] == 0, "well before all of it is there"


def test_a_store_that_hangs_costs_its_deadline_once(worker: Worker, store: NearStore) -> None:
    store.stop_after = 0
    begin_s = time.monotonic()
    attempt = worker.find(prompt_of(6))
    assert DEADLINE_S <= time.monotonic() - begin_s < DEADLINE_S + 1
    assert (worker.stage(attempt), worker.progress[attempt][-1].reason) == (Stage.FAILED, "late")
    begin_s = time.monotonic()
    again = worker.find(prompt_of(6))
    assert time.monotonic() - begin_s < 0.2
    assert (worker.stage(again), worker.progress[again][-1].reason) == (Stage.MISSED, "left_alone")
    store.go_on.set()
    store.stop_after = None
    worker.run(lambda: worker.stage(worker.find(prompt_of(6))) is Stage.STAGED)


def test_a_store_that_hangs_within_a_load_fails_it_and_writes_no_more(worker: Worker, store: NearStore) -> None:
    store.stop_after = 2
    attempt = fetching(worker, lambda: store.reads > 2)
    begin_s = time.monotonic()
    worker.step(Orders(0, loads=(worker.load(attempt, 0, TOKENS, [OTHERS]),), tokens=64))
    assert DEADLINE_S <= time.monotonic() - begin_s < DEADLINE_S + 1, "it waits once, not for each layer"
    assert (worker.failed, worker.failed_blocks) == ({attempt}, set(OTHERS))
    before = worker.everything()
    store.go_on.set()
    time.sleep(0.2)
    worker.step()
    assert worker.everything() == before


def test_a_parked_load_that_fails(worker: Worker, store: NearStore) -> None:
    store.stop_after = 2
    attempt = fetching(worker, lambda: store.reads > 2)
    worker.step(Orders(0, loads=(worker.load(attempt, 0, TOKENS, [OTHERS], parked=True),), idle=True))
    worker.run(lambda: worker.finished, within_s=DEADLINE_S + 3)
    assert worker.finished == worker.failed_requests == {f"request-{attempt}"}
    assert worker.stage(attempt) is Stage.FAILED
    assert not worker.failed_blocks
    assert worker.side.failed_parked_blocks() == set(OTHERS)
    worker.step()
    assert worker.side.failed_parked_blocks() == set()


def test_what_is_dropped_within_its_load_is_not_written_any_more(worker: Worker, store: NearStore) -> None:
    store.stop_after = 2
    attempt = fetching(worker, lambda: store.reads > 2)
    load = worker.load(attempt, 0, TOKENS, [OTHERS], parked=True)
    worker.step(Orders(0, loads=(load,), idle=True))
    worker.step(Orders(0, drops=(attempt,), idle=True))
    before = worker.everything()
    assert worker.finished == {load.request}, "vLLM keeps its blocks until then"
    store.go_on.set()
    time.sleep(0.2)
    worker.step()
    assert worker.everything() == before
    assert not worker.failed_requests


def test_what_is_dropped_while_it_comes_gives_its_memory_back(cache: KVCache, store: NearStore) -> None:
    one_bytes = LAYERS * 6 * SLICE_BYTES  # whole pages
    worker = stored(cache, replace(OPTIONS, staging_bytes=one_bytes, deadline_s=5.0))
    store.reads, store.stop_after = 0, 0
    attempt = fetching(worker)
    second = worker.look_up(prompt_of(6))
    for _ in range(20):
        worker.step()
    assert worker.stage(second) is None, "there is no room for two"
    worker.step(Orders(0, drops=(attempt,), idle=True))
    store.go_on.set()
    worker.run(lambda: worker.stage(second) is Stage.STAGED)
    worker.close()


def test_many_look_ups_wait_for_staging_memory_in_turn(cache: KVCache, store: NearStore) -> None:
    one_bytes = LAYERS * 6 * SLICE_BYTES  # whole pages
    worker = stored(cache, replace(OPTIONS, staging_bytes=3 * one_bytes))
    attempts = [worker.look_up(prompt_of(6)) for _ in range(30)]
    most = 0
    while left := [attempt for attempt in attempts if worker.stage(attempt) is not Stage.LOADED]:
        staged = [attempt for attempt in left if worker.stage(attempt) in (Stage.FETCHING, Stage.STAGED)]
        most = max(most, len(staged))
        loads = tuple(worker.load(attempt, 0, TOKENS, [OTHERS], parked=True) for attempt in staged[:1])
        worker.step(Orders(0, loads=loads, idle=True))
        if loads:
            worker.run(lambda load=loads[0]: worker.stage(load.attempt) is Stage.LOADED)  # type: ignore[misc]
    assert 1 <= most <= 3
    worker.close()


def test_who_waits_for_room_for_too_long_has_missed(cache: KVCache) -> None:
    worker = stored(cache, replace(OPTIONS, staging_bytes=LAYERS * 6 * SLICE_BYTES))
    worker.find(prompt_of(6))  # and keeps it
    second = worker.look_up(prompt_of(6), seconds=0.1)
    worker.run(lambda: worker.stage(second) is Stage.MISSED, within_s=5)
    assert worker.progress[second][-1].reason == "no_room"
    worker.close()


def test_a_prefix_that_staging_cannot_hold_is_shortened(cache: KVCache) -> None:
    worker = stored(cache, replace(OPTIONS, staging_bytes=LAYERS * 4 * SLICE_BYTES))
    attempt = worker.find(prompt_of(6))
    assert (worker.stage(attempt), worker.tokens(attempt)) == (Stage.STAGED, 4 * BLOCK_TOKENS)
    worker.close()


def test_damage_is_not_loaded(tmp_path: Path) -> None:
    with objectcache.open(tmp_path.as_uri()) as cache:
        worker = stored(cache, OPTIONS)
        before = worker.everything()
        (damaged,) = (path for path in tmp_path.rglob("*") if path.is_file() and "seg" in path.parts)
        data = bytearray(damaged.read_bytes())
        data[3 * 16384 + 5000] ^= 1  # within the last layer
        damaged.write_bytes(data)
        attempt = worker.find(prompt_of(6))
        assert (worker.stage(attempt), worker.progress[attempt][-1].reason) == (Stage.FAILED, "damaged")
        assert worker.everything() == before
        assert worker.stage(worker.find(prompt_of(6))) is Stage.MISSED, "it was forgotten"
        worker.close()


def test_a_load_of_an_attempt_that_is_gone_fails(worker: Worker) -> None:
    worker.step(Orders(0, loads=(worker.load(77, 0, TOKENS, [OTHERS]),), tokens=64))
    assert (worker.failed, worker.failed_blocks) == ({77}, set(OTHERS))
    worker.step(Orders(0, loads=(worker.load(78, 0, TOKENS, [OTHERS], parked=True),), idle=True))
    assert worker.failed_requests == worker.finished == {"request-78"}
    assert worker.failed_blocks == set(OTHERS)


def test_saves_that_nobody_takes_let_their_blocks_go(store: NearStore, tmp_path: Path) -> None:
    cache = LocalCache(CacheCore.open(store, tmp_path / "other"))
    options = replace(OPTIONS, saving_bytes=LAYERS * 6 * SLICE_BYTES)
    worker = Worker(one_group(SLICE_BYTES), CACHES["cpu"], cache, options)
    jobs = [worker.save(prompt_of(6, seed=seed), [BLOCKS], wait=False) for seed in range(8)]
    worker.run(lambda: sorted(worker.copied) == jobs)
    worker.close()
    assert sorted(worker.copied) == jobs, "each once"
    cache.close()
