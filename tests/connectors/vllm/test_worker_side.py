"""A worker saves blocks and loads them again: the same bytes, in the blocks that were asked for and in no others."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

import objectcache
from objectcache.cache import KVCache
from objectcache.connectors.vllm.messages import Adapter, Orders, Report, Stage
from objectcache.connectors.vllm.options import VllmOptions
from objectcache.keys import Namespace
from tests.connectors.vllm.workers import (
    BLOCK_TOKENS,
    CACHES,
    LAYERS,
    NUM_BLOCKS,
    RankIdentity,
    Worker,
    one_group,
    prompt_of,
    with_window,
)


@pytest.fixture(params=["file", "memory"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KVCache]:
    url = f"memory://{uuid4().hex}" if request.param == "memory" else tmp_path.as_uri()
    with objectcache.open(url) as cache:
        yield cache


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    gc.collect()  # who was not closed is forgotten, and its loader's threads end with it
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("objectcache-"):
            thread.join(10)
            assert not thread.is_alive(), thread.name


def slice_bytes(name: str) -> int:
    cache = CACHES[name]()
    return cache.numel() * cache.element_size() // NUM_BLOCKS


@pytest.mark.parametrize("name", CACHES)
def test_what_is_saved_comes_back_in_other_blocks(cache: KVCache, name: str) -> None:
    worker = Worker(one_group(slice_bytes(name)), CACHES[name], cache)
    prompt = prompt_of(6)
    worker.fill(1)
    saved, blocks = worker.everything(), [5, 6, 7, 20, 3, 9]
    cold = worker.find(prompt)
    assert (worker.stage(cold), worker.tokens(cold)) == (Stage.MISSED, 0)
    worker.save(prompt, [blocks])

    worker.fill(2)
    before, others = worker.everything(), [30, 31, 40, 2, 1, 8, 50]
    attempt = worker.find(prompt)
    assert (worker.stage(attempt), worker.tokens(attempt)) == (Stage.STAGED, 6 * BLOCK_TOKENS)
    assert worker.everything() == before, "nothing is written before a step says so"
    worker.step(Orders(0, loads=(worker.load(attempt, 0, 6 * BLOCK_TOKENS, [others]),), tokens=1))
    assert not worker.failed
    for layer in worker.names:
        for here, there in zip(blocks, others, strict=False):
            assert worker.block(layer, there) == saved[layer, here]
    after = worker.everything()
    assert {place for place in after if after[place] != before[place]} <= {
        (layer, block) for layer in worker.names for block in others[:6]
    }
    worker.close()
    stats = worker.counted()
    assert (stats.hits, stats.tokens) == (1, 6 * BLOCK_TOKENS)
    assert stats.stored_bytes == stats.bytes == 6 * LAYERS * slice_bytes(name)
    assert sorted(stats.waits) == list(range(LAYERS))


def test_a_part_of_what_was_fetched_is_loaded(cache: KVCache) -> None:
    worker = Worker(one_group(slice_bytes("cpu")), CACHES["cpu"], cache)
    prompt = prompt_of(8)
    worker.fill(1)
    saved, blocks = worker.everything(), list(range(10, 18))
    worker.save(prompt, [blocks])
    worker.fill(2)
    before = worker.everything()
    attempt = worker.find(prompt, have=2 * BLOCK_TOKENS)
    assert worker.tokens(attempt) == 8 * BLOCK_TOKENS
    assert worker.progress[attempt][-1].boundary_tokens == BLOCK_TOKENS
    others = list(range(30, 38))
    worker.step(Orders(0, loads=(worker.load(attempt, 3 * BLOCK_TOKENS, 6 * BLOCK_TOKENS, [others]),), tokens=1))
    for layer in worker.names:
        for index in range(8):
            expected = saved[layer, blocks[index]] if 3 <= index < 6 else before[layer, others[index]]
            assert worker.block(layer, others[index]) == expected
    assert worker.counted().bytes == 6 * LAYERS * slice_bytes("cpu"), "what is there is not fetched"
    worker.close()


def test_a_step_without_a_load_tells_nothing_and_waits_for_nothing(cache: KVCache) -> None:
    worker = Worker(one_group(slice_bytes("cpu")), CACHES["cpu"], cache)
    assert worker.side.bind(Orders(1, tokens=1)) is False, "no layer need ask for its KV"
    worker.side.end_step()
    assert (worker.side.finished_loads(), worker.side.failed_blocks()) == (set(), set())
    assert worker.side.report() == Report(1)
    assert worker.side.take_stats() is None
    worker.close()


def test_at_least_one_token_is_computed(cache: KVCache) -> None:
    worker = Worker(one_group(slice_bytes("cpu")), CACHES["cpu"], cache)
    prompt = prompt_of(4)
    worker.save(prompt, [[1, 2, 3, 4]])
    attempt = worker.find(prompt, tokens=4 * BLOCK_TOKENS)
    assert worker.tokens(attempt) == 3 * BLOCK_TOKENS
    held = worker.find(prompt, have=4 * BLOCK_TOKENS)
    assert (worker.stage(held), worker.progress[held][-1].reason) == (Stage.MISSED, "held")
    worker.close()


def test_what_others_have_stored_of_a_prompt(cache: KVCache) -> None:
    worker = Worker(one_group(slice_bytes("cpu")), CACHES["cpu"], cache)
    worker.save(prompt_of(6), [[1, 2, 3, 4, 5, 6]])
    attempt = worker.find(prompt_of(9, seed=3, shared=4))
    assert worker.tokens(attempt) == 4 * BLOCK_TOKENS
    worker.close()


def test_a_parked_load(cache: KVCache) -> None:
    worker = Worker(one_group(slice_bytes("cpu")), CACHES["cpu"], cache)
    prompt = prompt_of(5)
    worker.fill(1)
    saved = worker.everything()
    worker.save(prompt, [[1, 2, 3, 4, 5]])
    worker.fill(2)
    attempt = worker.look_up(prompt)
    worker.run(lambda: worker.stage(attempt) is not None)
    worker.step(Orders(0, loads=(worker.load(attempt, 0, 5 * BLOCK_TOKENS, [[11, 12, 13, 14, 15]], parked=True),)))
    worker.run(lambda: worker.finished)
    assert worker.finished == {f"request-{attempt}"}
    assert not worker.failed_requests
    assert worker.stage(attempt) is Stage.LOADED
    for layer in worker.names:
        assert [worker.block(layer, 11 + i) for i in range(5)] == [saved[layer, 1 + i] for i in range(5)]
    worker.close()


def test_windows_load_what_they_see(cache: KVCache) -> None:
    size = slice_bytes("cpu")
    worker = Worker(with_window(size, 3 * BLOCK_TOKENS), CACHES["cpu"], cache)
    prompt = prompt_of(8)
    worker.fill(1)
    saved = worker.everything()
    full, window = list(range(1, 9)), list(range(11, 19))
    worker.save(prompt, [full, window])
    worker.fill(2)
    before = worker.everything()
    attempt = worker.find(prompt)
    assert worker.tokens(attempt) == 8 * BLOCK_TOKENS
    assert worker.progress[attempt][-1].boundary_tokens == 0
    tables = [list(range(31, 39)), [0, 0, 0, 0, 0, 46, 47, 48]]
    worker.step(Orders(0, loads=(worker.load(attempt, 0, 8 * BLOCK_TOKENS, tables),), tokens=1))
    assert not worker.failed
    for layer in ("layers.0", "layers.2"):
        assert [worker.block(layer, 31 + i) for i in range(8)] == [saved[layer, 1 + i] for i in range(8)]
    for layer in ("layers.1", "layers.3"):
        assert [worker.block(layer, 46 + i) for i in range(3)] == [saved[layer, 16 + i] for i in range(3)]
    for layer in worker.names:
        assert worker.block(layer, 0) == before[layer, 0], "the null block is never written"
    worker.close()


def test_a_block_that_nothing_came_for_fails_its_load(cache: KVCache) -> None:
    worker = Worker(with_window(slice_bytes("cpu"), 3 * BLOCK_TOKENS), CACHES["cpu"], cache)
    prompt = prompt_of(8)
    worker.save(prompt, [list(range(1, 9)), list(range(11, 19))])
    before = worker.everything()
    attempt = worker.find(prompt)
    tables = [list(range(31, 39)), list(range(41, 49))]  # vLLM would take all of the window's blocks for computed
    worker.step(Orders(0, loads=(worker.load(attempt, 0, 8 * BLOCK_TOKENS, tables),), tokens=1))
    assert worker.failed == {attempt}
    assert worker.failed_blocks == {*tables[0], *tables[1]}
    assert worker.everything() == before
    worker.close()


def test_two_ranks_have_their_own_shards(cache: KVCache) -> None:
    size = slice_bytes("cpu")
    ranks = [Worker(one_group(size, shards=2, rank=rank), CACHES["cpu"], cache, rank=rank, ranks=2) for rank in (0, 1)]
    prompt = prompt_of(4)
    saved = []
    for rank, worker in enumerate(ranks):
        worker.fill(rank)
        saved.append(worker.everything())
        worker.save(prompt, [[1, 2, 3, 4]])
    for rank, worker in enumerate(ranks):
        worker.fill(9)
        attempt = worker.find(prompt)
        worker.step(Orders(0, loads=(worker.load(attempt, 0, 4 * BLOCK_TOKENS, [[5, 6, 7, 8]]),), tokens=1))
        for layer in worker.names:
            assert [worker.block(layer, 5 + i) for i in range(4)] == [saved[rank][layer, 1 + i] for i in range(4)]
        worker.close()


class Gated(RankIdentity):
    """Names nothing while `gate` is closed."""

    gate = threading.Event()

    def namespace(self, epoch: int, none_hash: bytes, adapter: Adapter | None) -> Namespace:
        assert self.gate.wait(10)
        return super().namespace(epoch, none_hash, adapter)


def test_what_a_reset_took_the_blocks_of_is_not_stored(cache: KVCache) -> None:
    name = next(iter(CACHES))
    identity = one_group(slice_bytes(name))
    worker = Worker(Gated(identity.layout, identity.groups, identity.parts), CACHES[name], cache)
    worker.fill(1)
    Gated.gate.clear()
    job = worker.save(prompt_of(6), [[1, 2, 3, 4, 5, 6]], wait=False)
    worker.step(Orders(0, abandoned=(job,), idle=True))
    worker.fill(2)
    Gated.gate.set()
    worker.run(lambda: job in worker.copied)
    time.sleep(0.5)  # what is stored would be visible by then
    assert worker.stage(worker.find(prompt_of(6))) is Stage.MISSED
    assert not worker.stored
    worker.close()


def test_a_rank_that_others_store_for_reports_at_once(cache: KVCache) -> None:
    worker = Worker(one_group(slice_bytes("cpu"), saves=False), CACHES["cpu"], cache)
    prompt = prompt_of(4)
    job = worker.save(prompt, [[1, 2, 3, 4]], wait=False)
    assert (worker.copied, worker.stored) == ([job], [job])
    assert worker.stage(worker.find(prompt)) is Stage.MISSED
    worker.close()


def test_a_step_that_runs_as_one_graph_finds_all_layers(cache: KVCache) -> None:
    worker = Worker(one_group(slice_bytes("cpu")), CACHES["cpu"], cache)
    prompt = prompt_of(4)
    worker.fill(1)
    saved = worker.everything()
    worker.save(prompt, [[1, 2, 3, 4]])
    worker.fill(2)
    attempt = worker.find(prompt)
    load = worker.load(attempt, 0, 4 * BLOCK_TOKENS, [[5, 6, 7, 8]])
    worker.step(Orders(0, loads=(load,), tokens=1, full_graph=True), wait_all=True, ask=False)
    assert not worker.failed
    assert worker.block("layers.3", 8) == saved["layers.3", 4]
    worker.close()


def test_a_step_that_asks_for_no_layers_has_failed(cache: KVCache) -> None:
    """It may have computed with anything."""
    worker = Worker(one_group(slice_bytes("cpu")), CACHES["cpu"], cache)
    prompt = prompt_of(4)
    worker.save(prompt, [[1, 2, 3, 4]])
    attempt = worker.find(prompt)
    load = worker.load(attempt, 0, 4 * BLOCK_TOKENS, [[5, 6, 7, 8]])
    worker.step(Orders(0, loads=(load,), tokens=1), ask=False)
    assert (worker.failed, worker.failed_blocks) == ({attempt}, {5, 6, 7, 8})
    worker.close()


def test_caches_that_are_not_what_the_layout_says_are_left_alone(cache: KVCache) -> None:
    worker = Worker(one_group(slice_bytes("cpu") + 4), CACHES["cpu"], cache)
    job = worker.save(prompt_of(4), [[1, 2, 3, 4]], wait=False)
    assert worker.copied == [job]
    attempt = worker.find(prompt_of(4))
    assert worker.stage(attempt) is Stage.FAILED
    worker.close()


def test_the_cache_is_opened_beside_the_engine(tmp_path: Path) -> None:
    options = VllmOptions((tmp_path / "cache").as_uri(), store_min_tokens=0)
    worker = Worker(one_group(slice_bytes("cpu")), CACHES["cpu"], options=options)
    worker.run((tmp_path / "cache").exists)
    prompt = prompt_of(4)
    worker.save(prompt, [[1, 2, 3, 4]])
    worker.close()
    again = Worker(one_group(slice_bytes("cpu")), CACHES["cpu"], options=options)
    assert again.tokens(again.find(prompt)) == 4 * BLOCK_TOKENS
    again.close()


def test_few_chunks_of_a_request_that_goes_on_are_stored(cache: KVCache) -> None:
    worker = Worker(one_group(slice_bytes("cpu")), CACHES["cpu"], cache)
    worker.save(prompt_of(2), [[1, 2]], ended=False)
    worker.save(prompt_of(3), [[1, 2, 3]], first=2, ended=False)
    assert worker.tokens(worker.find(prompt_of(3))) == 3 * BLOCK_TOKENS
    worker.close()
