"""Requests that wait for their prefix: one attempt, one deadline, and nothing that is not on all ranks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.connectors.vllm.messages import HASH_BYTES, Progress, Prompt, Report, Stage
from objectcache.connectors.vllm.options import AdmissionMode
from objectcache.connectors.vllm.scheduler.attempts import agreed_tokens
from objectcache.connectors.vllm.scheduler.waiting import Answer, Waiting, WaitingOptions

PROMPT = Prompt(bytes(HASH_BYTES * 10))
NOTHING, LATER = Answer(0), Answer(None)


class Engine:
    """Asks for one request, of 100 tokens in blocks of 10."""

    def __init__(self, **options: Any) -> None:
        defaults: dict[str, Any] = {"ranks": 2, "aligned_tokens": 10, "step_tokens": 50, "layerwise_safe": True}
        self.counters: Counter[str] = Counter()
        self.waiting = Waiting(WaitingOptions(**{**defaults, **options}), self.counters)
        self.now = 0.0

    def ask(self, have: int = 0, tokens: int = 100, **more: Any) -> Answer:
        return self.waiting.asked("r", lambda: PROMPT, have, tokens, self.now, **more)

    def tell(self, **ranks: Progress) -> None:
        self.tell_of(1, ranks)

    def tell_of(self, attempt: int, ranks: Mapping[str, Progress]) -> None:
        said = {int(name[1:]): progress for name, progress in ranks.items()}
        self.waiting.told(Report(1, {attempt: said}), self.now)

    def drops(self) -> tuple[int, ...]:
        return self.waiting.take()[1]


def fetching(tokens: int = 80, fits_in_s: float | None = None, boundary: int = 10, arrived: int = 1) -> Progress:
    return Progress(Stage.FETCHING, tokens, boundary, fits_in_s, arrived_bytes=arrived)


def staged(tokens: int = 80, boundary: int = 10) -> Progress:
    return Progress(Stage.STAGED, tokens, boundary)


def test_a_request_is_looked_up_when_it_is_first_asked_for_and_only_then() -> None:
    engine = Engine()
    assert engine.ask(20) == engine.ask(20) == LATER
    (look_up,), drops = engine.waiting.take()
    assert (look_up.request, look_up.have_tokens, look_up.prompt_tokens, look_up.step_tokens) == ("r", 20, 100, 50)
    assert (look_up.prompt, look_up.seconds, drops) == (PROMPT, 2.0, ())
    assert engine.waiting.take() == ((), ())


def test_prompts_with_nothing_to_load_are_not_looked_up() -> None:
    for have, tokens, least in [(0, 10, 0), (0, 1, 0), (90, 100, 0), (50, 100, 50)]:
        engine = Engine(min_tokens=least)
        assert engine.ask(have, tokens) == engine.ask(have, tokens) == NOTHING
        assert engine.waiting.take() == ((), ())
        assert engine.counters == {"too_short": 1}


def test_what_is_staged_on_all_ranks_is_admitted() -> None:
    engine = Engine(layerwise_safe=False)
    engine.ask()
    engine.tell(r0=staged())
    assert engine.ask() == LATER
    engine.tell(r1=fetching(fits_in_s=0.0))
    assert engine.ask() == LATER
    engine.tell(r1=staged())
    assert engine.ask() == Answer(80)


def test_in_time_means_when_the_slowest_rank_fits() -> None:
    engine = Engine()
    engine.ask()
    engine.tell(r0=fetching(fits_in_s=0.0), r1=fetching(fits_in_s=0.5))
    assert engine.ask() == LATER
    engine.now = 0.4
    assert engine.ask() == LATER
    engine.now = 0.5
    assert engine.ask() == Answer(80)


def test_nobody_waits_with_a_request_that_is_alone() -> None:
    engine = Engine()
    engine.ask()
    engine.tell(r0=fetching(), r1=fetching())
    assert engine.ask() == LATER
    assert engine.ask(alone=True) == Answer(80)
    engine = Engine(layerwise_safe=False)
    engine.ask()
    engine.tell(r0=fetching(), r1=fetching())
    assert engine.ask(alone=True) == LATER


def test_no_step_waits_for_a_transfer_of_which_nothing_came() -> None:
    for alone in (True, False):
        engine = Engine()
        engine.ask()
        engine.tell(r0=fetching(fits_in_s=0.0), r1=fetching(fits_in_s=0.0, arrived=0))
        assert engine.ask(alone=alone) == LATER
        engine.tell(r1=fetching(fits_in_s=0.0))
        assert engine.ask(alone=alone) == Answer(80)


@pytest.mark.parametrize(("mode", "parked"), [(AdmissionMode.AT_ONCE, False), (AdmissionMode.WHOLE, True)])
def test_the_other_modes_need_to_know_how_much_there_is(mode: AdmissionMode, parked: bool) -> None:
    engine = Engine(mode=mode)
    engine.ask()
    engine.tell(r0=fetching())
    assert engine.ask() == LATER
    engine.tell(r1=fetching())
    assert engine.ask() == Answer(80, parked)
    unsafe = Engine(mode=mode, layerwise_safe=False)
    unsafe.ask()
    unsafe.tell(r0=staged(), r1=fetching())
    assert unsafe.ask() == LATER
    unsafe.tell(r1=staged())
    assert unsafe.ask() == Answer(80, parked)


def test_ranks_that_hold_different_lengths_load_what_all_can() -> None:
    engine = Engine()
    engine.ask(10)
    engine.tell(r0=staged(80), r1=staged(50))
    assert engine.ask(10) == Answer(40)


def test_lengths_that_nobody_can_shorten_to_are_a_miss() -> None:
    engine = Engine()
    engine.ask()
    engine.waiting.take()
    engine.tell(r0=staged(80, boundary=0), r1=staged(50))
    assert engine.ask() == NOTHING
    assert engine.drops() == (1,)
    assert engine.counters["unequal"] == 1


@pytest.mark.parametrize("stage", [Stage.MISSED, Stage.FAILED])
def test_one_rank_that_has_nothing_is_enough(stage: Stage) -> None:
    engine = Engine()
    engine.ask()
    engine.waiting.take()
    engine.tell(r0=staged(), r1=Progress(stage, reason="why"))
    assert engine.drops() == (1,), "the other rank's staging is wanted"
    assert engine.ask() == engine.ask() == NOTHING
    assert engine.waiting.take() == ((), ())
    assert engine.counters[f"{stage}:why"] == 1


def test_without_progress_a_request_waits_for_the_deadline_once() -> None:
    engine = Engine(deadline_s=2.0)
    engine.ask()
    engine.waiting.take()
    engine.now = 1.9
    engine.tell(r0=fetching(fits_in_s=5.0), r1=fetching(fits_in_s=5.0))
    engine.now = 3.8
    engine.tell(r0=fetching(fits_in_s=5.0), r1=fetching(fits_in_s=5.0))  # it stalls
    assert engine.ask() == LATER
    engine.now = 3.9
    assert engine.ask() == NOTHING
    assert engine.drops() == (1,)
    assert engine.ask() == NOTHING
    assert engine.counters["late"] == 1


def test_a_transfer_that_makes_progress_is_waited_for() -> None:
    engine = Engine(deadline_s=2.0)
    engine.ask()
    for second in range(20):
        engine.now = float(second)
        engine.tell(r0=fetching(fits_in_s=20.0 - second), r1=fetching(fits_in_s=1.0))
        assert engine.ask() == LATER
    engine.now = 20.0
    assert engine.ask() == Answer(80)


def test_what_vllm_computed_meanwhile_is_not_loaded() -> None:
    engine = Engine()
    engine.ask(0)
    engine.tell(r0=staged(), r1=staged())
    assert engine.ask(30) == Answer(50)
    assert engine.ask(80) == NOTHING
    assert engine.counters["covered"] == 1


def test_what_vllm_lost_meanwhile_is_looked_up_once_more() -> None:
    engine = Engine()
    engine.ask(40)
    engine.waiting.take()
    assert engine.ask(30) == LATER
    (again,), drops = engine.waiting.take()
    assert (again.attempt, again.have_tokens, drops) == (2, 30, (1,))
    assert engine.ask(0) == NOTHING
    assert engine.drops() == (2,)


def test_a_look_up_that_nobody_heard_of_needs_no_drop() -> None:
    engine = Engine()
    engine.ask()
    engine.waiting.finished("r")
    assert engine.waiting.take() == ((), ())


def test_a_preempted_request_starts_over() -> None:
    engine = Engine()
    engine.ask()
    engine.tell(r0=Progress(Stage.MISSED))
    assert engine.ask() == NOTHING
    assert engine.ask(generation=1) == LATER


def test_blocks_are_filled_from_where_vllm_is() -> None:
    engine = Engine()
    engine.ask(0)
    engine.waiting.take()
    engine.tell(r0=staged(), r1=staged())
    assert engine.ask(20) == Answer(60)
    admitted = engine.waiting.allocated("r", 60, step=7)
    assert admitted is not None
    assert (admitted.attempt, admitted.first, admitted.stop) == (1, 20, 80)
    assert (admitted.parked, admitted.verified) == (False, True)
    assert engine.waiting.load_of(1) == ("r", admitted)
    engine.waiting.loaded(6)
    assert engine.waiting.load_of(1) is not None
    engine.waiting.loaded(7)
    assert engine.waiting.load_of(1) is None
    engine.waiting.finished("r")
    assert engine.drops() == ()


def test_what_vllm_does_not_take_is_dropped() -> None:
    engine = Engine()
    engine.ask()
    engine.waiting.take()
    engine.tell(r0=staged(), r1=staged())
    assert engine.ask() == Answer(80)
    assert engine.waiting.allocated("r", 0, step=1) is None
    assert engine.drops() == (1,)


@pytest.mark.parametrize("mode", [AdmissionMode.AT_ONCE, AdmissionMode.WHOLE])
def test_a_request_that_ends_while_it_loads_is_dropped(mode: AdmissionMode) -> None:
    engine = Engine(mode=mode)
    engine.ask()
    engine.waiting.take()
    engine.tell(r0=fetching(), r1=fetching())
    engine.ask()
    assert engine.waiting.allocated("r", 80, step=1)
    engine.waiting.finished("r")
    assert engine.waiting.untold
    assert engine.drops() == (1,)


def test_a_reset_looks_up_anew_what_waits() -> None:
    engine = Engine()
    engine.ask()
    engine.waiting.take()
    engine.tell(r0=staged(), r1=staged())
    engine.waiting.reset()
    assert engine.ask() == LATER
    (again,), drops = engine.waiting.take()
    assert (again.attempt, drops) == (2, (1,))
    engine.tell(r0=staged(), r1=staged())  # of the old one
    assert engine.ask() == LATER


@given(
    st.integers(1, 20),
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 6)), min_size=1, max_size=4),
)
def test_all_ranks_can_load_what_is_agreed_and_nothing_longer(
    limit: int, aligned: int, ranks: list[tuple[int, int]]
) -> None:
    said = [fetching(tokens, boundary=boundary) for tokens, boundary in ranks]

    def possible(tokens: int) -> bool:
        return tokens % aligned == 0 and all(
            one.tokens == tokens
            or (one.tokens > tokens and one.boundary_tokens > 0 and tokens % one.boundary_tokens == 0)
            for one in said
        )

    best = max((tokens for tokens in range(1, limit + 1) if possible(tokens)), default=0)
    assert agreed_tokens(limit, aligned, said) == best
