"""What is final: nothing that is not computed, not of a clean step, or saved already."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from objectcache.connectors.vllm.scheduler.saves import DECODED_STEPS, RUN_CHUNKS, Due, Known, Saves

CHUNK = 4


class Engine:
    """One request "r", of whom `tokens` are known."""

    def __init__(self, prompt: int, *, stored: int = 0, decoded: bool = True, min_tokens: int = 0) -> None:
        self.saves = Saves(CHUNK, decoded=decoded, min_tokens=min_tokens)
        self.tokens = prompt
        self.generation = 0
        self.step = 0
        self.saves.started("r", 0, prompt, stored, 1)

    def schedule(self, before: int, count: int) -> int:
        self.step += 1
        self.saves.scheduled(self.step, {"r": count}, ((["r"], [before]),), decoding=count == 1)
        return self.step

    def process(self, step: int, sampled: int = 0, *, clean: bool = True) -> list[Due]:
        self.tokens += sampled
        return list(self.saves.processed(step, clean, lambda _: Known(self.tokens, self.generation)))

    def finish(self, computed: int, *, in_step: bool) -> Due | None:
        return self.saves.finished("r", Known(self.tokens, self.generation), computed, in_step=in_step)


def test_a_prompt_is_saved_when_all_of_it_is_computed() -> None:
    engine = Engine(22)
    assert engine.process(engine.schedule(0, 10)) == []
    assert engine.process(engine.schedule(10, 12), 1) == [Due("r", 0, 20, True)]
    assert engine.process(engine.schedule(22, 1), 1) == []


def test_a_long_prompt_is_saved_as_it_goes() -> None:
    run = RUN_CHUNKS * CHUNK
    engine = Engine(3 * run)
    assert engine.process(engine.schedule(0, run - 1)) == []
    assert engine.process(engine.schedule(run - 1, run)) == [Due("r", 0, 2 * run - CHUNK, False)]
    assert engine.process(engine.schedule(2 * run - 1, run + 1), 1) == [Due("r", 2 * run - CHUNK, 3 * run, True)]


def test_the_last_token_sampled_is_not_computed() -> None:
    engine = Engine(19)
    assert engine.process(engine.schedule(0, 19), 1) == [Due("r", 0, 16, True)]
    assert engine.tokens == 20
    assert engine.finish(19, in_step=False) is None


def test_what_was_loaded_is_not_saved_again() -> None:
    engine = Engine(40, stored=32)
    assert engine.process(engine.schedule(32, 8), 1) == [Due("r", 32, 40, True)]


def test_nothing_of_a_step_that_was_not_clean_is_final_by_itself() -> None:
    engine = Engine(16)
    assert engine.process(engine.schedule(0, 16), 0, clean=False) == []
    assert engine.process(engine.schedule(0, 16), 1) == [Due("r", 0, 16, True)]


def test_what_did_not_come_is_saved_once_it_is_computed() -> None:
    engine = Engine(40, stored=32)
    step = engine.schedule(32, 8)
    engine.saves.lost("r", 0)
    assert engine.process(step, clean=False) == []
    assert engine.process(engine.schedule(0, 40), 1) == [Due("r", 0, 40, True)]


def test_what_was_put_off_is_offered_again_with_the_next_step() -> None:
    engine = Engine(16)
    assert engine.process(engine.schedule(0, 16), 1) == [Due("r", 0, 16, True)]
    engine.saves.put_off("r", 8)
    assert engine.process(engine.schedule(16, 1), 1) == [Due("r", 8, 16, True)]


def test_what_did_not_come_counts_only_up_to_there_also_while_steps_are_not_looked_at() -> None:
    engine = Engine(16)
    engine.process(engine.schedule(0, 16), 1)
    engine.process(engine.schedule(16, 1), 1)
    engine.saves.lost("r", 4)
    assert engine.finish(17, in_step=False) is None


def test_steps_in_flight_are_not_final() -> None:
    engine = Engine(16)
    first = engine.schedule(0, 8)
    engine.schedule(8, 8)
    assert engine.process(first) == []
    assert engine.finish(16, in_step=False) == Due("r", 0, 8, True)


def test_a_request_that_a_step_ends_waits_for_word_of_it() -> None:
    engine = Engine(16)
    first = engine.schedule(0, 16)
    engine.schedule(16, 1)
    engine.tokens += 1
    assert engine.finish(17, in_step=True) == Due("r", 0, 16, True, first)


def test_what_is_short_is_not_saved_and_what_grows_is_saved_from_its_start() -> None:
    engine = Engine(20, min_tokens=30)
    assert engine.process(engine.schedule(0, 20), 1) == []
    due: list[Due] = []
    for computed in range(20, 31 + DECODED_STEPS):
        assert computed > 31 or not due
        due += engine.process(engine.schedule(computed, 1), 1)
    assert [(one.first, one.ended) for one in due] == [(0, True)]
    assert due[0].stop >= 32
    short = Engine(20, min_tokens=30)
    short.process(short.schedule(0, 20), 1)
    assert short.finish(20, in_step=False) is None


def test_rejected_drafts_are_not_final() -> None:
    engine = Engine(16)
    engine.process(engine.schedule(0, 16), 1)
    engine.process(engine.schedule(16, 8), 2)
    assert engine.finish(24, in_step=False) is None
    assert engine.tokens == 19


def test_what_decoding_computes_is_saved_at_the_end_or_when_there_is_much_of_it() -> None:
    engine = Engine(8)
    assert engine.process(engine.schedule(0, 8), 1) == [Due("r", 0, 8, True)]
    due = []
    for token in range(RUN_CHUNKS * CHUNK + 5):
        due += engine.process(engine.schedule(8 + token, 1), 1)
    assert due == [Due("r", 8, 8 + RUN_CHUNKS * CHUNK, False)]
    assert engine.finish(engine.tokens - 1, in_step=False) == Due(
        "r", 8 + RUN_CHUNKS * CHUNK, 12 + RUN_CHUNKS * CHUNK, True
    )


def test_decoded_tokens_are_not_saved_where_nobody_wants_them() -> None:
    engine = Engine(8, decoded=False)
    due = engine.process(engine.schedule(0, 8), 1)
    for token in range(RUN_CHUNKS * CHUNK + 5):
        due += engine.process(engine.schedule(8 + token, 1), 1)
    assert due == [Due("r", 0, 8, True)]
    assert engine.finish(engine.tokens - 1, in_step=False) is None


def test_steps_from_before_a_preemption_say_nothing() -> None:
    engine = Engine(16)
    step = engine.schedule(0, 16)
    engine.generation = 1
    assert engine.process(step, 1) == []
    assert engine.finish(0, in_step=False) is None
    engine = Engine(16)
    step = engine.schedule(0, 16)
    engine.generation = 1
    engine.saves.started("r", 1, 16, 0, step + 1)
    assert engine.process(step, 1) == []
    assert engine.finish(0, in_step=False) is None


def test_a_step_that_nobody_reported_is_final_with_a_later_one() -> None:
    engine = Engine(16)
    engine.schedule(0, 8)
    later = engine.schedule(8, 8)
    assert engine.process(later, 1) == [Due("r", 0, 16, True)]


@given(
    st.integers(1, 40),
    st.integers(0, 3),
    st.lists(st.tuples(st.integers(1, 9), st.booleans()), max_size=12),
    st.booleans(),
)
def test_saves_follow_each_other_and_never_pass_what_is_clean_and_computed(
    prompt: int, stored: int, steps: list[tuple[int, bool]], in_step: bool
) -> None:
    stored = min(stored * CHUNK, (prompt - 1) // CHUNK * CHUNK)
    engine = Engine(prompt, stored=stored)
    computed, clean_through, saved = stored, stored, stored
    for count, clean in steps:
        count = min(count, max(1, prompt - computed))
        step = engine.schedule(computed, count)
        computed += count
        sampled = 1 if computed >= engine.tokens else 0
        due = engine.process(step, sampled, clean=clean)
        clean_through = computed if clean else clean_through
        for one in due:
            assert one.first == saved
            assert saved < one.stop <= min(clean_through, engine.tokens - 1)
            assert one.stop % CHUNK == 0
            saved = one.stop
    last = engine.finish(computed, in_step=in_step)
    if last is not None:
        assert last.first == saved
        assert saved < last.stop <= min(clean_through, engine.tokens - 1)
