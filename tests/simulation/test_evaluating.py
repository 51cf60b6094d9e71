"""Policies on mixes: the scheduler that ships, against closed forms and against every order."""

from __future__ import annotations

import pytest

from objectcache.scheduling import DEFAULT_POLICY, Scheduler
from objectcache.simulation.evaluating import evaluate_policies, policy_row
from objectcache.simulation.fluid import LINK, added_ttft_s
from objectcache.simulation.mixes import WINDOWS_S, Mix, MixRequest, draw_mixes, equally_shared_s
from objectcache.simulation.orders import least_added_s


def of_shapes(cap_bytes_s: float, *shapes: tuple[int, float]) -> Mix:
    return Mix(
        tuple(MixRequest(0.0, c, hit, 32, int(c * hit) * 4096, WINDOWS_S[c, hit]) for c, hit in shapes), cap_bytes_s
    )


def test_equal_is_what_its_closed_form_says() -> None:
    for mix in draw_mixes(4, 6):
        assert added_ttft_s(mix, Scheduler("equal", {LINK: mix.cap_bytes_s})) == pytest.approx(equally_shared_s(mix))


def test_one_request_alone_gets_all_whatever_the_policy() -> None:
    mix = of_shapes(12.5e9, (4096, 0.875))
    for row in evaluate_policies([mix]):
        assert row.gain_geomean == pytest.approx(1.0, abs=1e-3)
        assert row.mean_added_s == pytest.approx(equally_shared_s(mix)[0], rel=1e-3)


def test_the_best_order_by_hand() -> None:
    short, long = MixRequest(0.0, 0, 0.0, 1, 100, 0.0), MixRequest(0.0, 0, 0.0, 4, 100, 0.0)
    assert least_added_s(Mix((long, short), 100.0)) == pytest.approx((1 + 5) / 2)
    hidden = MixRequest(0.0, 0, 0.0, 4, 10, 1.0)  # first: 0.1 late itself, and 0.2 more for the other
    assert least_added_s(Mix((hidden, short), 100.0)) == pytest.approx((0.1 + 1.2) / 2)


def test_the_default_is_near_the_best_order_and_far_from_equal() -> None:
    mixes = [
        of_shapes(12.5e9, (4096, 0.875), (16384, 0.875), (65536, 0.5), (4096, 0.5)),
        of_shapes(6.25e9, (16384, 0.5), (16384, 0.875), (4096, 0.875), (65536, 0.875)),
        of_shapes(3.125e9, (4096, 0.5), (4096, 0.5), (16384, 0.5), (65536, 0.875)),
    ]
    for mix in mixes:
        added = added_ttft_s(mix, Scheduler(DEFAULT_POLICY, {LINK: mix.cap_bytes_s}))
        assert 0.97 * least_added_s(mix) <= sum(added) / len(added) <= 1.2 * least_added_s(mix)


def test_the_default_keeps_its_bars_on_a_few_mixes() -> None:
    (row,) = evaluate_policies(draw_mixes(6, 6), [DEFAULT_POLICY])
    assert (row.policy, row.mixes) == (DEFAULT_POLICY, 6)
    assert row.gain_geomean >= 1.5
    assert row.gain_min >= 0.98
    assert row.p95_ratio_pooled <= 1.05
    assert row.max_ratio_worst <= 1.5


def test_a_row_by_hand() -> None:
    row = policy_row("mine", [(1.0, 1.0), (4.0, 4.0)], [(2.0, 2.0), (2.0, 6.0)])
    assert (row.gain_geomean, row.gain_min, row.gain_max) == pytest.approx((2**0.5, 1.0, 2.0))
    assert (row.p95_ratio_pooled, row.max_ratio_worst) == pytest.approx((4 / 6, 4 / 6))
    assert (row.mixes, row.requests, row.mean_added_s) == (2, 4, 2.5)


@pytest.mark.parametrize("said", [0.0, float("inf")])
def test_what_a_lie_costs_others_is_bounded(said: float) -> None:
    """Each of the others has landed before equal sharing would have sent twice its bytes."""
    mix = of_shapes(6.25e9, (65536, 0.5), (4096, 0.875), (16384, 0.5), (16384, 0.875))
    honest = added_ttft_s(mix, Scheduler(DEFAULT_POLICY, {LINK: mix.cap_bytes_s}))
    lied = added_ttft_s(mix, Scheduler(DEFAULT_POLICY, {LINK: mix.cap_bytes_s}), [said, 1.0, 1.0, 1.0])
    equal = equally_shared_s(mix)
    for number in (1, 2, 3):
        alone_s = mix.requests[number].total_bytes * len(mix.requests) / mix.cap_bytes_s
        assert lied[number] <= equal[number] + alone_s
    assert sum(lied[1:]) <= 1.25 * sum(honest[1:])
