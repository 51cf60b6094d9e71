"""What the scheduler's side costs on the engine's thread."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import pytest

from objectcache.connectors.vllm.messages import Progress, Report, Stage
from objectcache.connectors.vllm.options import VllmOptions
from objectcache.connectors.vllm.scheduler.saving_orders import Group
from objectcache.connectors.vllm.scheduler.side import SchedulerFacts, SchedulerSide
from tests.connectors.vllm.fakes import BLOCK, Cached, Manager, New, Output, Pool, Request, Scheduled

pytestmark = pytest.mark.timing

WAITING, RUNNING, STEPS = 100, 64, 400


def engine() -> tuple[SchedulerSide, Manager]:
    facts = SchedulerFacts(2, (Group(BLOCK),), BLOCK, BLOCK, 8192, True)
    side = SchedulerSide(VllmOptions(url="file:///nowhere"), facts)
    manager = Manager(Pool(100_000))
    side.bind_kv_cache_manager(manager)
    return side, manager


def percentile(of: list[float], share: float) -> float:
    return sorted(of)[int(len(of) * share)]


def timed(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return (time.perf_counter() - begun) * 1e6


def test_a_question_costs_no_more_than_50_us_with_100_requests_waiting() -> None:
    side, _ = engine()
    waiting = [Request(f"w{number}", 32_000) for number in range(WAITING)]
    for request in waiting:
        side.get_num_new_matched_tokens(request, 0)
    look_ups = side.build_connector_meta(Scheduled()).look_ups
    progress = {
        one.attempt: {rank: Progress(Stage.FETCHING, 16_000, BLOCK, 9.0) for rank in (0, 1)} for one in look_ups
    }
    side.update_connector_output(Output(), Report(1, progress))
    gc.collect()
    took = [timed(lambda: side.get_num_new_matched_tokens(one, 0)) for _ in range(50) for one in waiting]  # noqa: B023
    assert percentile(took, 0.99) <= 50, f"{percentile(took, 0.5):.1f} us, p99 {percentile(took, 0.99):.1f} us"


def test_a_step_without_a_hit_costs_no_more_than_100_us() -> None:
    side, manager = engine()
    running = [Request(f"r{number}", 1_000) for number in range(RUNNING)]
    for number, request in enumerate(running):
        blocks = manager.give(request.request_id, list(range(1 + 500 * number, 501 + 500 * number)))
        side.update_state_after_alloc(request, blocks, 0)
    first = Scheduled({one.request_id: 1_000 for one in running}, [New(one.request_id, 0) for one in running])
    side.build_connector_meta(first)
    side.update_connector_output(Output(), Report(1))
    ids = [one.request_id for one in running]
    took = []
    gc.collect()
    for step in range(STEPS):
        output = Scheduled(dict.fromkeys(ids, 1), [], Cached(ids, [1_000 + step] * RUNNING, [None] * RUNNING))
        for one in running:
            one.sampled()

        def hooks(output: Scheduled = output, step: int = step) -> None:
            side.build_connector_meta(output)
            side.update_connector_output(Output(), Report(step + 2))
            side.has_pending_push_work()
            side.take_events()

        took.append(timed(hooks))
    assert percentile(took, 0.5) <= 100, f"{percentile(took, 0.5):.1f} us, p99 {percentile(took, 0.99):.1f} us"
