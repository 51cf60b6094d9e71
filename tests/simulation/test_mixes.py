"""The mixes that policies are compared on."""

from __future__ import annotations

import pytest

from objectcache.simulation.mixes import CAPS_BYTES_S, NEXT_TO_NOTHING_S, Mix, MixRequest, draw_mixes, equally_shared_s


def test_a_seed_draws_the_same_mixes() -> None:
    assert draw_mixes(7, 6) == draw_mixes(7, 6)[:6] == draw_mixes(7, 9)[:6]
    assert draw_mixes(7, 6) != draw_mixes(8, 6)


def test_what_is_drawn_is_balanced_and_worth_scheduling() -> None:
    mixes = draw_mixes(1, 12)
    assert [mix.cap_bytes_s for mix in mixes] == [*CAPS_BYTES_S] * 4
    assert [mix.requests[-1].arrival_s > 0 for mix in mixes] == [False] * 3 + [True] * 3 + [False] * 3 + [True] * 3
    for mix in mixes:
        assert 4 <= len(mix.requests) <= 16
        assert sum(equally_shared_s(mix)) / len(mix.requests) >= NEXT_TO_NOTHING_S
        assert all(request.total_bytes == request.context_tokens * request.hit * 2**17 for request in mix.requests)


def request(arrival_s: float, layer_bytes: int, window_s: float) -> MixRequest:
    return MixRequest(arrival_s, 4096, 0.5, 4, layer_bytes, window_s)


def test_what_equal_sharing_adds() -> None:
    alone = Mix((request(0.0, 100, 1.0),), 100.0)
    assert equally_shared_s(alone) == pytest.approx((1.0,))  # only the first layer shows
    transfer_bound = Mix((request(0.0, 100, 0.5),), 100.0)
    assert equally_shared_s(transfer_bound) == pytest.approx((4.0 - 3 * 0.5,))
    # The first has 2 of 4 layers when the second comes; then each has half until the first ends at 6, and 8 is the end.
    two = Mix((request(0.0, 100, 0.0), request(2.0, 100, 0.0)), 100.0)
    assert equally_shared_s(two) == pytest.approx((6.0, 6.0))
