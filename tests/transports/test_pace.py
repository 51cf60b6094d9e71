"""A delivery's bucket of time: never faster than its rate, late wakes made up for, changes at once."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.transports.pacing import LATENESS_S, LEAST_STEP_BYTES, LOOK_S, MOST_STEP_BYTES, STEP_S, Pace

RATES = st.floats(1e6, 2e10)


class Driven:
    """A pace whose rate the test sets, drawn on by a sender that wakes `late_s` late."""

    def __init__(self, bytes_s: float) -> None:
        self.bytes_s = bytes_s
        self.reported = 0
        self.pace = Pace(lambda: self.bytes_s, self._report)
        self.now_s = 100.0
        self.taken: list[tuple[float, int]] = []

    def _report(self, total_bytes: int) -> None:
        self.reported = total_bytes

    def run(self, until_s: float, late_s: float = 0.0) -> None:
        while True:
            due_s = self.pace.due_s(self.now_s)
            if due_s > self.now_s:
                if due_s + late_s > until_s:
                    self.now_s = until_s
                    return
                self.now_s = due_s + late_s
                continue
            if self.now_s >= until_s:
                return
            self.pace.take(self.pace.step_bytes, self.now_s)
            self.taken.append((self.now_s, self.pace.step_bytes))

    def between(self, begin_s: float, end_s: float) -> int:
        return sum(count for when_s, count in self.taken if begin_s <= when_s < end_s)


@given(RATES, st.floats(0.0, LATENESS_S * 0.9))
def test_the_rate_is_kept_however_late_the_sender_wakes(bytes_s: float, late_s: float) -> None:
    driven = Driven(bytes_s)
    driven.run(101.0, late_s)
    allowed = bytes_s + 2 * max(bytes_s * STEP_S, LEAST_STEP_BYTES)
    least = bytes_s * (1 - 2 * LATENESS_S) - 2 * LEAST_STEP_BYTES
    assert least <= driven.between(100.0, 101.0) <= allowed
    assert driven.reported == driven.between(100.0, 102.0)


@given(RATES, st.floats(0.0, 0.1), st.booleans())
def test_it_begins_without_anything_to_make_up_for(bytes_s: float, within_s: float, unbound: bool) -> None:
    """No link carries more from its first byte on; also where there was no bound before."""
    driven = Driven(inf if unbound else bytes_s)
    if unbound:
        driven.pace.due_s(driven.now_s)
        driven.pace.take(1 << 20, driven.now_s)
        driven.bytes_s = bytes_s
        driven.now_s += 0.05
    begin_s = driven.now_s
    driven.run(begin_s + within_s)
    assert driven.between(begin_s, inf) <= bytes_s * within_s + max(bytes_s * STEP_S, LEAST_STEP_BYTES)


@given(RATES, st.floats(0.01, 1.0))
def test_a_sender_that_slept_makes_up_for_a_moment_only(bytes_s: float, slept_s: float) -> None:
    driven = Driven(bytes_s)
    driven.run(100.1)
    driven.now_s += slept_s
    woken_s = driven.now_s
    driven.run(woken_s + 1e-6)
    assert driven.between(woken_s, woken_s + 1e-6) <= bytes_s * LATENESS_S + 2 * max(bytes_s * STEP_S, LEAST_STEP_BYTES)


@given(RATES, RATES)
def test_a_new_rate_counts_at_once(before: float, after: float) -> None:
    driven = Driven(before)
    driven.run(100.05)
    driven.bytes_s = after
    driven.run(100.06)
    came = driven.between(100.05, 100.06) - after * 0.01
    step = max(STEP_S * max(before, after), LEAST_STEP_BYTES)
    assert abs(came) <= 2 * step + after * LATENESS_S


def test_paused_nothing_is_due_and_nothing_is_saved_up() -> None:
    driven = Driven(1e8)
    driven.run(100.05)
    driven.bytes_s = 0.0
    driven.run(100.5)
    assert not driven.between(100.05, 101.0)
    driven.bytes_s = 1e8
    driven.run(100.5 + LOOK_S + 0.01)
    assert driven.between(100.5, 101.0) <= 1e8 * (LOOK_S + 0.01 + LATENESS_S) + LEAST_STEP_BYTES
    assert driven.between(100.5, 101.0) >= 1e8 * 0.009


def test_without_a_bound_everything_is_due() -> None:
    driven = Driven(inf)
    for _ in range(5):
        assert driven.pace.due_s(driven.now_s) <= driven.now_s
        assert not driven.pace.bound
        driven.pace.take(1 << 30, driven.now_s)
    assert driven.reported == 5 << 30


@pytest.mark.parametrize(
    ("bytes_s", "step_bytes"), [(1e3, LEAST_STEP_BYTES), (1e8, 98304), (1e9, 999424), (1e12, MOST_STEP_BYTES)]
)
def test_steps_take_a_millisecond(bytes_s: float, step_bytes: int) -> None:
    driven = Driven(bytes_s)
    driven.pace.due_s(0.0)
    assert driven.pace.step_bytes == step_bytes
