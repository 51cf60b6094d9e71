"""The circuit breaker, without a network: time is passed in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from objectcache.client.breaker import FAILURES_TO_OPEN, FIRST_PAUSE_S, LONGEST_PAUSE_S, Breaker


def opened(at_s: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES_TO_OPEN):
        assert breaker.allows(at_s)
        breaker.failed(at_s)
    return breaker


def test_a_few_failures_are_no_reason_to_stop() -> None:
    breaker = Breaker()
    for _ in range(FAILURES_TO_OPEN - 1):
        breaker.failed(0.0)
    assert breaker.allows(0.0)
    assert not breaker.is_open


def test_where_each_failure_is_dear_the_first_opens_it() -> None:
    breaker = Breaker(failures_to_open=1)
    assert breaker.allows(0.0)
    breaker.failed(0.0)
    assert not breaker.allows(FIRST_PAUSE_S * 0.9)
    assert breaker.allows(FIRST_PAUSE_S)
    breaker.succeeded()
    assert breaker.allows(FIRST_PAUSE_S)


def test_a_success_in_between_starts_the_count_again() -> None:
    breaker = Breaker()
    for _ in range(10):
        breaker.failed(0.0)
        breaker.succeeded()
    assert breaker.allows(0.0)


def test_it_opens_and_lets_one_try_after_the_pause() -> None:
    breaker = opened()
    assert breaker.is_open
    assert not breaker.allows(FIRST_PAUSE_S * 0.9)
    assert breaker.allows(FIRST_PAUSE_S)
    assert [breaker.allows(FIRST_PAUSE_S) for _ in range(5)] == [False] * 5


def test_the_one_that_tries_closes_it() -> None:
    breaker = opened()
    assert breaker.allows(FIRST_PAUSE_S)
    breaker.succeeded()
    assert not breaker.is_open
    assert breaker.allows(FIRST_PAUSE_S)
    for _ in range(FAILURES_TO_OPEN - 1):
        breaker.failed(FIRST_PAUSE_S)
    assert breaker.allows(FIRST_PAUSE_S), "closed means closed: a single failure does not open it again"


def test_one_that_tries_and_is_never_heard_of_is_followed_by_another() -> None:
    breaker = opened()
    assert breaker.allows(FIRST_PAUSE_S)
    assert breaker.allows(2 * FIRST_PAUSE_S)


def test_what_was_under_way_when_it_opened_says_nothing_new() -> None:
    """Many threads fail at once when a gateway is restarted; that is one failure, not many in a row."""
    breaker = opened()
    for _ in range(50):
        breaker.failed(0.1)
    assert breaker.allows(FIRST_PAUSE_S)


def test_pauses_grow_to_a_limit_and_shrink_with_success() -> None:
    breaker, now_s, pauses = opened(), 0.0, []
    for _ in range(8):
        begin_s = now_s
        while not breaker.allows(now_s):
            now_s += FIRST_PAUSE_S / 4
        pauses.append(now_s - begin_s)
        breaker.failed(now_s)
    assert pauses == sorted(pauses)
    assert pauses[0] == FIRST_PAUSE_S
    assert pauses[-1] == LONGEST_PAUSE_S
    breaker.succeeded()
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed(now_s)
    assert breaker.allows(now_s + FIRST_PAUSE_S)


@given(st.lists(st.tuples(st.sampled_from(["ask", "fail", "succeed"]), st.floats(0, 20)), max_size=60))
def test_it_never_stays_shut_and_never_lets_a_crowd_through(steps: list[tuple[str, float]]) -> None:
    breaker, now_s = Breaker(), 0.0
    allowed_at_s: list[float] = []
    for what, later_s in steps:
        now_s += later_s
        if what == "fail":
            breaker.failed(now_s)
        elif what == "succeed":
            breaker.succeeded()
            allowed_at_s.clear()
        elif breaker.allows(now_s) and breaker.is_open:
            allowed_at_s.append(now_s)
    assert len(set(allowed_at_s)) == len(allowed_at_s), "two were let through at one moment while it was open"
    assert breaker.allows(now_s + LONGEST_PAUSE_S)
