"""Loads that are dropped, fail and overlap, in blocks that are used again at once: what is there is right, or was never
written."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from objectcache.cache.core import CacheCore
from objectcache.cache.local import LocalCache
from objectcache.connectors.vllm.messages import Load, LookUp, Orders, Stage
from tests.connectors.vllm.test_worker_failures import OPTIONS, SLICE_BYTES, NearStore
from tests.connectors.vllm.workers import BLOCK_TOKENS, CACHES, NUM_BLOCKS, Worker, one_group, prompt_of

PROMPTS = 3
BLOCKS = 4
TOKENS = BLOCKS * BLOCK_TOKENS


class RandomRun:
    def __init__(self, seed: int, cache: LocalCache, store: NearStore) -> None:
        self.random = random.Random(seed)
        self.store = store
        self.worker = Worker(one_group(SLICE_BYTES), CACHES["cpu"], cache, OPTIONS)
        self.worker.fill(seed)
        before = self.worker.everything()
        self.expected = []
        for prompt in range(PROMPTS):
            blocks = list(range(1 + prompt * BLOCKS, 1 + (prompt + 1) * BLOCKS))
            self.worker.save(prompt_of(BLOCKS, seed=prompt + 1), [blocks])
            self.expected.append({name: [before[name, block] for block in blocks] for name in self.worker.names})
        self.worker.fill(seed + 1000)  # from here on nothing but loads writes
        self.content = self.worker.everything()
        self.free = list(range(1, NUM_BLOCKS))
        self.random.shuffle(self.free)
        self.prompts: dict[int, int] = {}
        self.waiting: set[int] = set()
        self.parked: dict[str, Load] = {}
        self.loaded = self.failed = self.dropped = 0

    def step(self) -> None:
        look_ups, loads, drops = [], [], []
        if len(self.waiting) < 6 and self.random.random() < 0.6:
            number = next(self.worker.attempts)
            self.prompts[number] = self.random.randrange(PROMPTS)
            prompt = prompt_of(BLOCKS, seed=self.prompts[number] + 1)
            look_ups.append(LookUp(number, f"request-{number}", prompt, 0, TOKENS + 1, 8192, 30.0))
            self.waiting.add(number)
        for number in list(self.waiting):
            if self.worker.stage(number) in (Stage.MISSED, Stage.FAILED):
                self.waiting.discard(number)
            elif self.random.random() < 0.08:
                drops.append(number)
                self.waiting.discard(number)
            elif self.worker.stage(number) is not None and len(self.free) >= BLOCKS and self.random.random() < 0.4:
                table = [self.free.pop() for _ in range(BLOCKS)]
                loads.append(self.worker.load(number, 0, TOKENS, [table], parked=self.random.random() < 0.5))
                self.waiting.discard(number)
        dropped = [load for load in self.parked.values() if self.random.random() < 0.1]
        drops += [load.attempt for load in dropped]
        self.dropped += len(dropped)
        self.store.delay_s = self.random.choice((0.0, 0.0, 0.001, 0.004))
        self.worker.finished.clear()
        self.worker.failed_requests.clear()
        self.parked |= {load.request: load for load in loads if load.parked}
        self.worker.step(
            Orders(0, tuple(look_ups), tuple(loads), tuple(drops), tokens=32),
            compute_s=self.random.choice((0.0, 0.001)),
        )
        for load in loads:
            if not load.parked:
                self.check(load, came=load.attempt not in self.worker.failed)
        for request in self.worker.finished:
            load = self.parked.pop(request)
            gone = load in dropped or request in self.worker.failed_requests
            self.check(load, came=not gone)

    def check(self, load: Load, *, came: bool) -> None:
        """The load is over: its blocks are somebody else's from here on."""
        table = load.block_ids[0]
        if came:
            expected = self.expected[self.prompts[load.attempt]]
            for name in self.worker.names:
                assert [self.worker.block(name, block) for block in table] == expected[name]
        self.loaded += came
        self.failed += not came
        for block in table:
            for name in self.worker.names:
                self.content[name, block] = self.worker.block(name, block)
            self.free.insert(self.random.randrange(len(self.free) + 1), block)
        # The last ones are taken first: some at once.

    def unchanged(self) -> None:
        held = {block for load in self.parked.values() for block in load.block_ids[0]}
        now = self.worker.everything()
        assert {place for place in now if place[1] not in held and now[place] != self.content[place]} == set()


@pytest.mark.parametrize("seed", range(6))
def test_random_orders(seed: int, tmp_path: Path) -> None:
    store = NearStore()
    cache = LocalCache(CacheCore.open(store, tmp_path / "catalog"), buffer_bytes=64 << 20)
    run = RandomRun(seed, cache, store)
    until_s = time.monotonic() + 4.0
    steps = 0
    while steps < 150 or (not run.loaded and time.monotonic() < until_s):
        run.step()
        run.unchanged()
        steps += 1
    assert run.loaded > 5
    run.worker.step(Orders(0, drops=(*run.waiting, *(load.attempt for load in run.parked.values())), idle=True))
    run.parked.clear()
    run.content = run.worker.everything()
    for _ in range(20):
        run.worker.step()
        run.unchanged()
    run.worker.close()
    cache.close()
    assert cache.pool.usage().in_use_bytes == 0
