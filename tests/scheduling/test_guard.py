"""Nobody falls further behind equal sharing than by its own bytes, whatever others say or ask for."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectcache.scheduling import POLICIES, Admitted, Ended, Scheduler, Sent
from tests.scheduling.worlds import World

CAP = 100e6
LONGEST_STEP_S = 5e-3


@settings(max_examples=30, deadline=None)
@given(
    policy=st.sampled_from(sorted(POLICIES)),
    shapes=st.lists(
        st.tuples(
            st.integers(1, 40),  # layers
            st.integers(10_000, 4_000_000),  # bytes of each
            st.sampled_from([0.0, 0.001, 0.1, inf]),  # seconds of each, or so it is said
            st.floats(0.0, 0.2),  # arrival
        ),
        min_size=2,
        max_size=8,
    ),
)
def test_who_says_what_takes_at_most_the_others_own_bytes_from_them(
    policy: str, shapes: list[tuple[int, int, float, float]]
) -> None:
    admissions = [
        Admitted(arrival_s, number, ("link",), (layer_bytes,) * layers, (window_s,) * layers)
        for number, (layers, layer_bytes, window_s, arrival_s) in enumerate(shapes)
    ]
    total = {admission.delivery: sum(admission.unit_bytes) for admission in admissions}
    world = World(Scheduler(policy, {"link": CAP}), {"link": CAP}, admissions)
    equal = dict.fromkeys(total, 0.0)
    for _ in range(150):
        before_s = world.now_s
        decision = world.step(longest_s=LONGEST_STEP_S)
        if decision is None:
            return
        for number in decision.bytes_s:
            equal[number] += CAP / len(decision.bytes_s) * min(LONGEST_STEP_S, world.now_s - before_s)
            assert world.sent[number] >= min(total[number], equal[number]) - total[number]
            behind = equal[number] - world.sent[number]
            assert number in world.ended_s or behind <= total[number] + 2 * CAP * LONGEST_STEP_S + 1


@pytest.mark.parametrize("policy", ["slack", "lookahead"])
def test_a_long_delivery_is_not_starved_by_an_endless_stream_of_short_ones(policy: str) -> None:
    """Equal sharing among four would need 4 s for it. It takes less than twice that, though all else is shorter."""
    scheduler = Scheduler(policy, {"link": CAP})
    scheduler.apply(Admitted(0.0, 0, ("link",), (5_000_000,) * 20))
    sent = {0: 0.0}
    size = {0: 100_000_000}
    now_s, step_s = 0.0, 0.02
    while sent[0] < size[0]:
        while len(sent) < 4:
            number = len(size)
            scheduler.apply(Admitted(now_s, number, ("link",), (1_000_000,) * 10))
            sent[number], size[number] = 0.0, 10_000_000
        for number, bytes_sent in sent.items():
            scheduler.apply(Sent(now_s, number, int(bytes_sent)))
        decision = scheduler.decide(now_s)
        now_s += step_s
        for number, rate in decision.bytes_s.items():
            sent[number] += rate * step_s
            if number and sent[number] >= size[number]:
                del sent[number]
                scheduler.apply(Ended(now_s, number))
        assert now_s < 8.3
    assert now_s > 3.0  # it did wait
