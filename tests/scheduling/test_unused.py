"""Who uses little of its rate is noticed; who is only slow to follow it, or sends in frames, is not."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.scheduling.unused import Use

RATE = 200e6


def test_a_client_that_takes_little_is_left_one_and_a_half_times_that() -> None:
    use = Use(0.0)
    changed = []
    for step in range(1, 7):
        use.told(int(RATE / 5 * 0.01))
        changed.append(use.judged(step * 0.01, RATE))
    assert sum(changed) == 1
    assert use.limit == pytest.approx(1.5 * RATE / 5)


def test_one_that_stands_still_is_left_a_little_and_comes_back_by_doubling() -> None:
    use = Use(0.0)
    for step in range(1, 5):
        use.judged(step * 0.01, RATE)
    assert 0 < use.limit <= RATE / 8
    limits = []
    now_s = 0.04
    while use.limited(RATE):
        now_s += 0.01
        use.told(int(use.limit * 0.01))
        if use.judged(now_s, use.limit):
            limits.append(use.limit)
    assert now_s < 1.0
    assert limits == sorted(limits)


@given(
    lag_steps=st.integers(0, 4),
    frame_bytes=st.sampled_from([1, 1 << 18, 1 << 20]),
    pattern=st.lists(st.sampled_from([0.0, RATE / 4, RATE]), min_size=1, max_size=9),
)
def test_who_sends_what_it_is_given_is_never_limited(lag_steps: int, frame_bytes: int, pattern: list[float]) -> None:
    """Rates follow 8 ms late at worst, and bytes come in frames that are counted when they are whole."""
    use = Use(0.0)
    rates = (pattern * 100)[:200]
    sent = told = 0
    for step, rate in enumerate(rates):
        sent += int((rates[step - lag_steps] if step >= lag_steps else 0.0) * 2e-3)
        use.told(sent // frame_bytes * frame_bytes - told)
        told = sent // frame_bytes * frame_bytes
        use.judged((step + 1) * 2e-3, rate)
        assert use.limit == inf
