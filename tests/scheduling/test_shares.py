"""Shares of a link: never more than its cap in sum, whoever dies and whenever; and what is there is used."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectcache.scheduling.shares import LEASE_S, BorrowedShare, ShareLender

CAP, FLOOR = 100.0, 2.0
NAMES = ("a", "b", "c")
RESERVE = FLOOR * len(NAMES)


def lender(now_s: float = 0.0) -> ShareLender:
    return ShareLender(CAP, FLOOR, RESERVE, now_s)


STEPS = st.lists(
    st.tuples(
        st.floats(0.0, 1.5),  # time that passes
        st.sampled_from(["ask", "ask", "ask", "own", "die", "restart", "lose answer"]),
        st.sampled_from(NAMES),
        st.floats(0.0, 300.0),
        st.floats(0.0, 0.5),  # how long an answer takes
    ),
    min_size=5,
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_in_sum_it_is_never_more_than_the_cap(steps: list[tuple[float, str, str, float, float]]) -> None:
    now_s, lends, own = 0.0, lender(), FLOOR
    shares = {name: BorrowedShare(FLOOR) for name in NAMES}
    for passed_s, what, name, demand, delay_s in steps:
        now_s += passed_s
        match what:
            case "ask" | "lose answer":
                asked_s = now_s
                now_s += delay_s
                share = lends.ask(name, FLOOR, demand, shares[name].bytes_s(asked_s), now_s)
                if what == "ask":
                    shares[name].got(share, asked_s)
            case "own":
                own = lends.own(demand, now_s)
            case "die":
                shares[name] = BorrowedShare(FLOOR)
            case "restart":
                lends = lender(now_s)
                own = lends.own(0.0, now_s)
        assert own + sum(share.bytes_s(now_s) for share in shares.values()) <= CAP * (1 + 1e-9)


def test_demand_gets_what_others_do_not_want() -> None:
    lends, now_s = lender(), LEASE_S
    for _ in range(4):
        own = lends.own(5.0, now_s)
        quiet = lends.ask("a", FLOOR, 1.0, FLOOR, now_s).bytes_s
        busy = lends.ask("b", FLOOR, 500.0, FLOOR, now_s).bytes_s
        now_s += 0.2
    assert own >= 5.0
    assert quiet >= 1.0
    assert busy == pytest.approx(CAP - own - quiet - FLOOR)  # one floor is set aside for who has not come


def test_equal_demands_get_equal_shares() -> None:
    lends, now_s = lender(), LEASE_S
    shares = [FLOOR] * 4
    for _ in range(8):
        shares[0] = lends.own(500.0, now_s)
        for index, name in enumerate(NAMES, 1):
            shares[index] = lends.ask(name, FLOOR, 500.0, shares[index], now_s).bytes_s
        now_s += 0.2
    assert sum(shares) == pytest.approx(CAP)
    assert max(shares) == pytest.approx(min(shares))


def test_what_a_dead_gateway_had_is_lent_again_when_its_lease_has_ended() -> None:
    lends, now_s = lender(), LEASE_S
    dead = lends.ask("a", FLOOR, 500.0, FLOOR, now_s).bytes_s
    before = lends.ask("b", FLOOR, 500.0, FLOOR, now_s + LEASE_S / 2).bytes_s
    after = lends.ask("b", FLOOR, 500.0, before, now_s + LEASE_S).bytes_s
    assert dead + before <= CAP
    assert after > before


def test_an_answer_that_is_lost_lends_nothing_twice() -> None:
    lends, now_s = lender(), LEASE_S
    held = lends.ask("a", FLOOR, 500.0, FLOOR, now_s).bytes_s
    lends.own(500.0, now_s + 0.1)
    lends.ask("a", FLOOR, 0.0, held, now_s + 0.2)  # it never learns that it has less now
    assert held + lends.ask("b", FLOOR, 500.0, FLOOR, now_s + 0.3).bytes_s <= CAP


def test_a_lender_that_has_just_started_lends_no_more_than_floors() -> None:
    lends = lender(10.0)
    assert lends.own(500.0, 10.0) == FLOOR
    assert lends.ask("a", FLOOR, 500.0, FLOOR, 10.0 + LEASE_S * 0.99).bytes_s == FLOOR
    assert lends.ask("a", FLOOR, 500.0, FLOOR, 10.0 + LEASE_S).bytes_s > FLOOR


def test_without_an_answer_a_borrower_has_its_floor() -> None:
    share = BorrowedShare(FLOOR)
    assert share.bytes_s(1e9) == FLOOR
    share.got(lender().ask("a", FLOOR, 500.0, FLOOR, LEASE_S), LEASE_S)
    assert share.bytes_s(LEASE_S) > FLOOR
    assert share.bytes_s(2 * LEASE_S) == FLOOR


def test_floors_must_fit() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        ShareLender(CAP, CAP / 2, CAP, 0.0)
    with pytest.raises(ValueError, match="set aside"):
        lender().ask("a", RESERVE * 1.1, 0.0, 0.0, 0.0)
    lends = lender()
    lends.change(CAP / 2)
    with pytest.raises(ValueError, match="do not fit"):
        lends.change(FLOOR)
