"""Fluids between decisions: nothing is lost, nothing flows faster than its links."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectcache.scheduling import Admitted, CapChanged, Decision, Event, Scheduler, Sent
from objectcache.simulation.flows import Flow, GatewayFlows

POLICIES = ("equal", "proportional", "stall", "slack")


class Watched(Scheduler):
    """Remembers what it heard and decided."""

    def __init__(self, policy: str, caps: dict[str, float]) -> None:
        super().__init__(policy, caps)
        self.heard: list[Event] = []
        self.decided: list[Decision] = []

    def apply(self, event: Event) -> None:
        self.heard.append(event)
        super().apply(event)

    def decide(self, now_s: float) -> Decision:
        decision = super().decide(now_s)
        self.decided.append(decision)
        return decision


def drained(flows: GatewayFlows, arriving: list[Admitted]) -> dict[int, Flow]:
    """All of `arriving` served, by when something is due and not at fixed steps."""
    admitted = {}
    waiting = sorted(arriving, key=lambda event: event.now_s)
    now_s = next_s = 0.0
    while waiting or next_s < inf:
        now_s = max(now_s, min(next_s, waiting[0].now_s if waiting else inf))
        flows.advance(now_s)
        while waiting and waiting[0].now_s <= now_s:
            event = waiting.pop(0)
            admitted[event.delivery] = flows.admit(event)
        next_s = min(flows.decide())
    return admitted


deliveries = st.lists(
    st.tuples(
        st.floats(0, 2),
        st.lists(st.integers(1, 10**7), min_size=1, max_size=6),
        st.floats(0, 0.1),
        st.sampled_from((("nic",), ("nic", "a"), ("store", "nic", "b"), ("other",))),
    ),
    min_size=1,
    max_size=8,
)


@given(deliveries, st.sampled_from(POLICIES), st.floats(1e6, 1e9))
@settings(max_examples=60)
def test_all_bytes_arrive_and_no_link_is_over_its_cap(
    asked: list[tuple[float, list[int], float, tuple[str, ...]]], policy: str, cap: float
) -> None:
    caps = {"nic": cap, "a": cap / 3, "b": cap / 2}
    scheduler = Watched(policy, caps)
    events = [
        Admitted(at_s, number, links, tuple(sizes), (window,) * len(sizes))
        for number, (at_s, sizes, window, links) in enumerate(asked)
    ]
    served = drained(GatewayFlows(scheduler), events)
    for event in events:
        flow = served[event.delivery]
        assert flow.sent_bytes == sum(event.unit_bytes)
        assert len(flow.landed_s) == len(event.unit_bytes)
        assert flow.landed_s == sorted(flow.landed_s)
        least_s = sum(event.unit_bytes) / min((caps[link] for link in event.links if link in caps), default=inf)
        assert flow.landed_s[-1] >= event.now_s + least_s * (1 - 1e-9) - 1e-9
    by_number = {event.delivery: event for event in events}
    for decision in scheduler.decided:
        for link, limit in caps.items():
            sent = sum(rate for number, rate in decision.bytes_s.items() if link in by_number[number].links)
            assert sent <= limit * (1 + 1e-9)


def test_units_land_where_rates_put_them() -> None:
    """Alone for a second, then two with half of the link each, then alone again."""
    scheduler = Watched("equal", {"nic": 100.0})
    served = drained(
        GatewayFlows(scheduler, landing_s=0.5),
        [Admitted(0.0, 1, ("nic",), (60, 60, 100)), Admitted(1.0, 2, ("nic",), (50,))],
    )
    assert served[1].landed_s == pytest.approx([0.6 + 0.5, 1.4 + 0.5, 2.7 + 0.5])
    assert served[2].landed_s == pytest.approx([2.0 + 0.5])
    heard = [(event.now_s, event.total_bytes) for event in scheduler.heard if isinstance(event, Sent)]
    assert (1.0, 100) in heard


def test_a_cap_that_changes_is_felt_from_then_on() -> None:
    flows = GatewayFlows(Scheduler("equal", {"nic": 100.0}))
    flow = flows.admit(Admitted(0.0, 1, ("nic",), (300,)))
    assert min(flows.decide()) == pytest.approx(3.0)
    assert flows.advance(1.0) == []
    flows.tell(CapChanged(1.0, "nic", 400.0))
    assert min(flows.decide()) == pytest.approx(1.5)
    assert flows.advance(1.5) == [flow]
    assert flow.landed_s == pytest.approx([1.5])
    assert flows.decide() == (inf, inf)


def test_without_a_cap_all_is_there_at_once() -> None:
    served = drained(GatewayFlows(Scheduler("equal")), [Admitted(0.5, 1, ("nic",), (10, 20))])
    assert served[1].landed_s == [0.5, 0.5]
