"""The scheduler's side between vLLM's hooks and the workers' reports."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from objectcache.connectors.vllm.messages import Progress, Report, SavePart, Stage, declined
from objectcache.connectors.vllm.options import AdmissionMode, VllmOptions
from objectcache.connectors.vllm.scheduler.saving_orders import Group
from objectcache.connectors.vllm.scheduler.side import SchedulerFacts, SchedulerSide
from objectcache.connectors.vllm.scheduler.steps import FullGraphs
from tests.connectors.vllm.fakes import BLOCK, Blocks, Cached, Manager, New, Output, Pool, Request, Scheduled


class Engine:
    def __init__(self, *, ranks: int = 1, groups: tuple[Group, ...] = (Group(BLOCK),), live: bool = True, **more: Any):
        self.now = 0.0
        options = VllmOptions(url="file:///nowhere", admission=AdmissionMode.AT_ONCE, store_min_tokens=0)
        facts = SchedulerFacts(ranks, groups, BLOCK, BLOCK, 512, more.pop("safe", True), lambda: b"none", **more)
        self.side = SchedulerSide(options, facts, clock=lambda: self.now, new_epoch=lambda: 77)
        self.pool = Pool(100)
        self.manager = Manager(self.pool)
        if live:
            self.side.bind_kv_cache_manager(self.manager)
        else:
            self.side.bind_gpu_block_pool(self.pool)

    def prefill(self, request: Request, *ids: list[int], external: int = 0, have: int = 0) -> Any:
        """The step that computes the rest of it."""
        self.side.update_state_after_alloc(request, self.manager.give(request.request_id, *ids), external)
        before = have + external
        count = request.num_tokens - before
        new = New(request.request_id, before, tuple(list(group) for group in ids))
        orders = self.side.build_connector_meta(Scheduled({request.request_id: count}, [new]))
        request.num_computed_tokens = before + count
        return orders

    def idle(self) -> Any:
        return self.side.build_connector_meta(Scheduled())

    def report(self, step: int, **more: Any) -> None:
        self.side.update_connector_output(Output(), Report(step, **more))


def looked_up(engine: Engine, request: Request, tokens: int, have: int = 0) -> int:
    assert engine.side.get_num_new_matched_tokens(request, have) == (None, False)
    (look_up,) = engine.idle().look_ups
    progress = Progress(Stage.FETCHING, tokens, BLOCK)
    engine.side.update_connector_output(Output(), Report(0, {look_up.attempt: {0: progress}}))
    return int(look_up.attempt)


def test_orders_pickle() -> None:
    engine = Engine()
    engine.side.get_num_new_matched_tokens(Request("r", 64), 0)
    orders = engine.idle()
    assert pickle.loads(pickle.dumps(orders)) == orders
    assert orders.look_ups[0].prompt.blocks == 4
    assert (orders.idle, orders.epoch, orders.none_hash) == (True, 0, b"none")


def test_a_load_names_the_blocks_it_fills() -> None:
    engine = Engine()
    request = Request("r", 64)
    looked_up(engine, request, 48, have=16)
    assert engine.side.get_num_new_matched_tokens(request, 16) == (32, False)
    (load,) = engine.prefill(request, [5, 6, 7, 8], external=32, have=16).loads
    assert (load.first_token, load.stop_token, load.block_ids) == (16, 48, ((5, 6, 7),))


def test_final_blocks_are_held_until_every_rank_has_copied_them() -> None:
    engine = Engine(ranks=2)
    request = Request("r", 50)
    step = engine.prefill(request, [5, 6, 7, 8]).step
    request.sampled()
    engine.report(step)
    assert engine.pool.held == [5, 6, 7]
    assert engine.side.has_pending_push_work()
    (save,) = engine.idle().saves
    assert (save.parts, save.ended, save.prompt.blocks) == ((SavePart(0, 0, (5, 6, 7)),), True, 3)
    engine.report(2, copied={save.job: frozenset((1,))})
    assert engine.pool.held == [5, 6, 7]
    engine.report(3, copied={save.job: frozenset((0,))})
    assert engine.pool.held == []
    assert not engine.side.has_pending_push_work()


def test_a_reset_does_not_wait_for_copies() -> None:
    engine = Engine()
    request = Request("r", 50)
    step = engine.prefill(request, [5, 6, 7, 8]).step
    request.sampled()
    engine.report(step)
    (save,) = engine.idle().saves
    assert engine.pool.held == [5, 6, 7]
    assert engine.pool.reset_prefix_cache()
    assert engine.pool.held == []
    assert engine.idle().abandoned == (save.job,)
    assert engine.idle().abandoned == ()
    engine.report(3, copied={save.job: frozenset((0,))}, stored={save.job: frozenset((0,))})
    assert engine.pool.held == []


def test_a_reset_that_others_stand_in_the_way_of_costs_no_save() -> None:
    engine = Engine()
    request = Request("r", 50)
    step = engine.prefill(request, [5, 6, 7, 8]).step
    request.sampled()
    engine.report(step)
    assert len(engine.idle().saves) == 1
    engine.pool.touch([engine.pool.blocks[50]])
    assert not engine.pool.reset_prefix_cache()
    assert engine.pool.held == [5, 6, 7, 50]
    assert engine.idle().abandoned == ()


def test_a_step_without_tokens_is_not_idle_while_another_one_runs() -> None:
    engine = Engine()
    step = engine.prefill(Request("r", 50), [5, 6, 7, 8]).step
    assert not engine.idle().idle
    engine.report(step)
    assert engine.idle().idle


def test_what_was_computed_before_a_reset_is_not_found_when_its_request_ends() -> None:
    engine = Engine()
    request = Request("r", 50)
    engine.report(engine.prefill(request, [5, 6, 7, 8]).step)
    engine.side.reset_cache()
    engine.pool.evicted.clear()
    engine.side.request_finished(request)
    assert {5, 6, 7, 8} <= engine.pool.evicted


def test_what_was_not_ordered_yet_is_forgotten_by_a_reset() -> None:
    engine = Engine()
    request = Request("r", 50)
    engine.report(engine.prefill(request, [5, 6, 7, 8]).step)
    assert engine.pool.reset_prefix_cache()
    orders = engine.idle()
    assert (orders.saves, orders.abandoned) == ((), ())


def test_groups_save_the_blocks_that_they_have() -> None:
    engine = Engine(groups=(Group(BLOCK), Group(2 * BLOCK, windowed=True), Group(BLOCK, windowed=True)))
    request = Request("r", 96)
    step = engine.prefill(request, [1, 2, 3, 4, 5, 6], [7, 8, 9], [0, 10, 0, 0, 11, 12]).step
    request.sampled()
    engine.report(step)
    (save,) = engine.idle().saves
    assert save.parts == (
        SavePart(0, 0, (1, 2, 3, 4, 5, 6)),
        SavePart(1, 0, (7, 8, 9)),
        SavePart(2, 1, (10,)),
        SavePart(2, 4, (11, 12)),
    )


def test_an_end_that_a_step_brings_waits_for_word_of_that_step() -> None:
    for failed, saves in [(frozenset[int](), 1), (frozenset((9,)), 0)]:
        engine = Engine()
        request = Request("r", 40)
        step = engine.prefill(request, [1, 2, 3]).step
        request.sampled()
        request.status.name = "FINISHED_STOPPED"
        assert engine.side.request_finished(request) == (False, None)
        assert engine.pool.held == [1, 2]
        assert engine.idle().saves == ()
        engine.report(step, failed_loads=failed)
        assert len(engine.idle().saves) == saves
        assert engine.pool.held == [1, 2][: 2 * saves]


def test_requests_that_end_by_an_error_are_not_saved() -> None:
    engine = Engine()
    request = Request("r", 40)
    engine.report(engine.prefill(request, [1, 2, 3]).step, failed_loads=frozenset((9,)))
    request.status.name = "FINISHED_ERROR"
    engine.side.request_finished(request)
    assert engine.pool.held == []


def test_no_more_is_held_than_a_share_of_the_pool_and_the_rest_is_saved_later() -> None:
    engine = Engine()
    for number in range(3):
        request = Request(str(number), 10 * BLOCK)
        step = engine.prefill(request, list(range(1 + 10 * number, 11 + 10 * number))).step
        request.sampled()
        engine.report(step)
    assert engine.pool.held == list(range(1, 21))
    assert engine.side.counters["put_off"] == 1
    step = engine.side.build_connector_meta(Scheduled({"2": 1}, [], Cached(["2"], [10 * BLOCK], [None]))).step
    engine.report(step, copied={1: frozenset((0,))})
    assert engine.pool.held == list(range(11, 31))


def test_of_the_last_save_as_much_is_taken_as_there_is_room_for() -> None:
    engine = Engine()
    request = Request("r", 40 * BLOCK)
    step = engine.prefill(request, list(range(1, 41))).step
    request.sampled()
    engine.report(step)
    assert engine.pool.held == []
    request.status.name = "FINISHED_ABORTED"
    engine.side.request_finished(request)
    assert engine.pool.held == list(range(1, 25))
    (save,) = engine.idle().saves
    assert save.ended
    assert save.prompt.blocks == 24
    assert engine.side.counters["dropped:held"] == 1


def test_blocks_of_a_failed_load_are_saved_once_they_are_computed_and_found_by_nobody_before() -> None:
    engine = Engine()
    request = Request("r", 64)
    attempt = looked_up(engine, request, 48)
    assert engine.side.get_num_new_matched_tokens(request, 0) == (48, False)
    step = engine.prefill(request, [1, 2, 3, 4], external=48).step
    engine.report(step, failed_loads=frozenset((attempt,)))
    assert engine.pool.evicted == {1, 2, 3, 4}
    assert engine.pool.held == []
    cached = Cached(["r"], [0], [None])
    step = engine.side.build_connector_meta(Scheduled({"r": 64}, [], cached)).step
    request.sampled()
    engine.report(step)
    assert engine.pool.held == [1, 2, 3, 4]


def test_after_a_failure_that_vllm_does_not_recover_from_nothing_is_saved() -> None:
    engine = Engine(safe=False)
    request = Request("r", 64)
    engine.side.get_num_new_matched_tokens(request, 0)
    (look_up,) = engine.idle().look_ups
    engine.report(0, progress={look_up.attempt: {0: Progress(Stage.STAGED, 48, BLOCK)}})
    assert engine.side.get_num_new_matched_tokens(request, 0) == (48, False)
    step = engine.prefill(request, [1, 2, 3, 4], external=48).step
    engine.report(step, failed_loads=frozenset((look_up.attempt,)))
    other = Request("other", 64)
    step = engine.prefill(other, [5, 6, 7, 8]).step
    other.sampled()
    engine.report(step)
    assert engine.pool.held == []
    engine.side.reset_cache()
    step = engine.prefill(Request("new", 65), [5, 6, 7, 8, 9]).step
    engine.report(step)
    assert engine.pool.held == [5, 6, 7, 8]


def test_a_prefix_that_vllm_had_is_saved_unless_it_was() -> None:
    engine = Engine()
    for number, expected in enumerate([(0, (1, 2, 3)), None, (3, (4,))]):
        request = Request(str(number), [49, 49, 65][number])
        have = 48 if number else 0
        engine.side.get_num_new_matched_tokens(request, have)
        step = engine.prefill(request, [1, 2, 3, 4, 5], have=have).step
        engine.report(step)
        saves = engine.idle().saves
        assert [(part.first, part.block_ids) for save in saves for part in save.parts] == (
            [expected] if expected else []
        )
        rank = {save.job: frozenset((0,)) for save in saves}
        engine.report(step, copied=rank, stored=rank)


def test_a_prefix_that_was_not_stored_when_it_was_handed_over_is_saved_again() -> None:
    engine = Engine()
    for number, (tokens, have) in enumerate([(49, 0), (49, 48), (65, 48), (65, 64)]):
        request = Request(str(number), tokens)
        engine.side.get_num_new_matched_tokens(request, have)
        engine.report(engine.prefill(request, [1, 2, 3, 4, 5], have=have).step)
        saves = engine.idle().saves
        blocks = (1, 2, 3, 4)[: tokens // BLOCK]
        assert [part.block_ids for save in saves for part in save.parts] == [blocks]
        engine.report(0, copied={save.job: frozenset((0,)) for save in saves})


def test_without_vllms_own_tables_they_are_put_together() -> None:
    engine = Engine(live=False)
    request = Request("r", 64)
    engine.side.update_state_after_alloc(request, Blocks(([],)), 0)
    step = engine.side.build_connector_meta(Scheduled({"r": 32}, [New("r", 0, ([1, 2],))])).step
    engine.report(step)
    step = engine.side.build_connector_meta(Scheduled({"r": 32}, [], Cached(["r"], [32], [([3, 4],)]))).step
    request.sampled()
    engine.report(step)
    assert engine.pool.held == [1, 2, 3, 4]


def test_without_vllms_own_tables_no_windows_are_saved() -> None:
    engine = Engine(live=False, groups=(Group(BLOCK, windowed=True),))
    request = Request("r", 65)
    engine.report(engine.prefill(request, [1, 2, 3, 4, 5]).step)
    assert engine.pool.held == []
    assert engine.side.counters["not_saved"] == 1


def test_vllm_waits_for_held_blocks_but_not_for_long() -> None:
    engine = Engine()
    assert not engine.side.has_pending_block_frees()
    engine.report(engine.prefill(Request("r", 65), [1, 2, 3, 4, 5]).step)
    assert engine.side.has_pending_block_frees()
    for block in engine.pool.blocks:
        block.ref_cnt += 1
    assert not engine.side.has_pending_block_frees(), "nobody gains by their being given back"
    for block in engine.pool.blocks:
        block.ref_cnt -= 1
    engine.now = 1.0
    assert not engine.side.has_pending_block_frees()


@pytest.mark.parametrize(
    ("graphs", "counts", "full"),
    [
        (FullGraphs.NEVER, [1, 1], False),
        (FullGraphs.DECODING, [1, 1], True),
        (FullGraphs.DECODING, [3, 3], True),
        (FullGraphs.DECODING, [1, 3], False),
        (FullGraphs.DECODING, [4, 4], False),
        (FullGraphs.DECODING, [], False),
        (FullGraphs.ALWAYS, [1, 9], True),
        (FullGraphs.ALWAYS, [], False),
    ],
)
def test_which_steps_may_run_as_one_graph(graphs: FullGraphs, counts: list[int], full: bool) -> None:
    engine = Engine(graphs=graphs, draft_tokens=2)
    ids = [str(number) for number in range(len(counts))]
    output = Scheduled(dict(zip(ids, counts, strict=True)), [], Cached(ids, [0] * len(ids), [None] * len(ids)))
    assert engine.side.build_connector_meta(output).full_graph is full


def test_nobody_waits_for_a_rank_that_does_nothing() -> None:
    engine = Engine(ranks=2)
    request = Request("r", 50)
    engine.side.get_num_new_matched_tokens(request, 0)
    engine.side.update_connector_output(Output(), declined(engine.idle(), 1))
    assert engine.side.get_num_new_matched_tokens(request, 0) == (0, False)
    step = engine.prefill(request, [5, 6, 7, 8]).step
    request.sampled()
    engine.report(step)
    assert engine.pool.held == [5, 6, 7]
    orders = engine.idle()
    engine.side.update_connector_output(Output(), declined(orders, 0).merged(declined(orders, 1)))
    assert engine.pool.held == []
