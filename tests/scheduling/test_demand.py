"""Lateness targets: least ones, and such as can be kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.scheduling.demand import Link

CAP = 100.0
Demand = tuple[float, float, float, float]
demands = st.tuples(
    st.floats(0.0, 5.0), st.floats(1.0, 300.0), st.floats(0.0, 500.0), st.just(0.0) | st.floats(0.01, 8.0)
)


def needed(demand: Demand, late_s: float, by_s: float) -> float:
    """Bytes that are due by then."""
    due_s, head, more, span_s = demand
    since_s = by_s - due_s - late_s
    if since_s < -1e-9:
        return 0.0
    return head + more if since_s >= span_s - 1e-9 else head + more * since_s / span_s


def kept(placed: list[tuple[Demand, float]], spare: float) -> bool:
    """Whether a link of CAP, and `spare` bytes, can keep all: looked at where what is due jumps, or grows otherwise."""
    times = [d[0] + late + part for d, late in placed for part in (0.0, d[3])]
    return all(sum(needed(d, late, t) for d, late in placed) <= CAP * t + spare for t in times)


def place(link: Link, demand: Demand) -> float:
    due_s, head, more, span_s = demand
    if span_s == 0.0:
        head += more
        more = 0.0
    late_s = link.least(due_s, head, head + more, span_s, 0.0)
    link.place(due_s + late_s, head, head + more, span_s)
    return late_s


@given(st.lists(demands, min_size=1, max_size=8))
def test_targets_can_be_kept_and_none_can_be_less(wanted: list[Demand]) -> None:
    link = Link(0.0, CAP)
    placed: list[tuple[Demand, float]] = []
    for demand in wanted:
        late_s = place(link, demand)
        placed.append((demand, late_s))
        assert kept(placed, spare=10.0)  # what counts as nothing, of each
        if late_s > 0.5:
            assert not kept([*placed[:-1], (demand, late_s - 0.4)], spare=0.0)


def test_one_alone_and_one_behind_it() -> None:
    link = Link(0.0, CAP)
    assert place(link, (0.0, 50.0, 100.0, 4.0)) == pytest.approx(0.5)  # its first unit; the rest is hidden
    # Of 100 bytes a second, 25 are taken from 0.5 to 4.5 s: 200 bytes need 50 + 25 (t - 0.5) + 200 = 100 t.
    assert place(link, (0.0, 200.0, 0.0, 0.0)) == pytest.approx(237.5 / 75)
