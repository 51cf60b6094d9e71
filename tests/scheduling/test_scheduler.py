"""What holds of every policy: no cap is exceeded, no room is left unused, nobody starves, replays are the same."""

from __future__ import annotations

import io
import json
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectcache.errors import ConfigError, IntegrityError
from objectcache.scheduling import (
    POLICIES,
    Admitted,
    CapChanged,
    Ended,
    Landed,
    PolicyChanged,
    Scheduler,
    Sent,
    WeightChanged,
    WindowsChanged,
)
from objectcache.scheduling.record import RecordingScheduler, replay
from tests.scheduling.worlds import World, admissions, caps, policies

MIB = 1 << 20


@settings(max_examples=60, deadline=None)
@given(policy=policies, caps=caps, admitted=admissions())
def test_caps_are_kept_room_is_used_and_all_end(policy: str, caps: dict[str, float], admitted: list[Admitted]) -> None:
    world = World(Scheduler(policy, caps), caps, admitted)
    known = {admission.delivery: admission for admission in admitted}
    for _ in range(40):
        decision = world.step()
        if decision is None:
            break
        world.assert_sound(decision, known)
    while world.step(shortest_s=0.25) is not None:
        pass
    assert world.ended_s.keys() == known.keys()


@settings(max_examples=25, deadline=None)
@given(policy=policies, caps=caps, admitted=admissions(), other=policies)
def test_a_replay_decides_the_same(policy: str, caps: dict[str, float], admitted: list[Admitted], other: str) -> None:
    file = io.StringIO()
    scheduler = RecordingScheduler(file, policy, caps)
    world = World(scheduler, caps, admitted)
    decisions = [world.step() for _ in range(8)]
    scheduler.apply(Landed(world.now_s, 0, 1))
    scheduler.apply(WindowsChanged(world.now_s, 0, (0.5, 0.1), ready_s=0.2))
    scheduler.apply(CapChanged(world.now_s, "store", 5e6))
    scheduler.apply(WeightChanged(world.now_s, "a", 3.0))
    scheduler.apply(PolicyChanged(world.now_s, other))
    decisions += [scheduler.decide(world.now_s + 0.01 * step) for step in range(4)]
    replayed = list(replay(file.getvalue().splitlines()))
    assert [recorded for recorded, _ in replayed] == [decision for decision in decisions if decision is not None]
    assert all(recorded == decided for recorded, decided in replayed)


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"begins":2,"policy":"equal","caps":{}}',
        '{"event":"Ended","now_s":0,"delivery":1}',
        '{"begins":1,"policy":"equal","caps":{}}\n{"event":"Begun","now_s":0}',
        '{"begins":1,"policy":"equal","caps":{}}\n{"decides":0}',
    ],
)
def test_what_is_no_record_is_said_to_be_none(line: str) -> None:
    with pytest.raises(IntegrityError):
        list(replay(line.splitlines()))


def test_a_record_is_lines_of_json() -> None:
    file = io.StringIO()
    scheduler = RecordingScheduler(file, "equal", {"store": 10.0})
    scheduler.apply(Admitted(0.0, 1, ("store",), (5, 5)))
    scheduler.apply(Admitted(0.0, 2, (), (5,)))
    scheduler.decide(0.5)
    lines = [json.loads(line) for line in file.getvalue().splitlines()]
    assert lines[0] == {"begins": 1, "policy": "equal", "caps": {"store": 10.0}}
    assert lines[1]["event"] == "Admitted"
    assert lines[3] == {"decides": 0.5, "bytes_s": {"1": 10.0, "2": None}, "until_s": None}


def admitted(number: int, unit_bytes: int, window_s: float, units: int = 16, **more: object) -> Admitted:
    return Admitted(0.0, number, ("link",), (unit_bytes,) * units, (window_s,) * units, **more)  # type: ignore[arg-type]


def test_equal_is_max_min_over_several_links() -> None:
    scheduler = Scheduler("equal", {"store": 90.0, "client": 10.0})
    scheduler.apply(Admitted(0.0, 1, ("store", "client"), (1000,)))
    scheduler.apply(Admitted(0.0, 2, ("store",), (1000,)))
    scheduler.apply(Admitted(0.0, 3, ("store", "other"), (1000,)))
    scheduler.apply(Admitted(0.0, 4, ("other",), (1000,)))
    assert scheduler.decide(0.0).bytes_s == {1: 10.0, 2: 40.0, 3: 40.0, 4: inf}
    scheduler.apply(CapChanged(0.0, "client", None))
    assert scheduler.decide(0.0).bytes_s == {1: 30.0, 2: 30.0, 3: 30.0, 4: inf}
    scheduler.apply(Ended(0.0, 2))
    assert scheduler.decide(0.0).bytes_s == {1: 45.0, 3: 45.0, 4: inf}


def test_proportional_is_by_bytes_over_windows() -> None:
    scheduler = Scheduler("proportional", {"link": 100.0})
    scheduler.apply(admitted(1, 300_000, 1.0, units=2))
    scheduler.apply(admitted(2, 100_000, 1.0, units=2))
    assert scheduler.decide(0.0).bytes_s == pytest.approx({1: 75.0, 2: 25.0})


def test_stall_hides_what_is_hidden_cheaply_and_shares_the_rest_by_the_root_of_bytes() -> None:
    scheduler = Scheduler("stall", {"link": 1000.0})
    scheduler.apply(admitted(1, 100, 1.0))  # 100 bytes/s hide it
    scheduler.apply(admitted(2, 400_000, 1.0))
    scheduler.apply(admitted(3, 1_600_000, 1.0))
    rates = scheduler.decide(0.0).bytes_s
    assert rates == pytest.approx({1: 1000 / (1 + 632.46 / 10 + 1264.91 / 10), 2: 331.6, 3: 663.2}, rel=1e-3)
    scheduler.apply(CapChanged(0.0, "link", 3e6))
    rates = scheduler.decide(0.0).bytes_s
    assert rates == pytest.approx({1: 333_366.7, 2: 733_266.7, 3: 1_933_366.7}, rel=1e-3)  # b/c and a third of the rest


def test_slack_gives_what_keeps_the_shortest_on_time_and_then_the_next() -> None:
    scheduler = Scheduler("slack", {"link": 10 * MIB})
    scheduler.apply(admitted(1, MIB, 1.0, units=40, ready_s=0.5))
    scheduler.apply(admitted(2, MIB, 1.0, units=20, ready_s=0.25))
    assert scheduler.decide(0.0).bytes_s == pytest.approx({2: 8 * MIB, 1: 2 * MIB})
    scheduler.apply(WindowsChanged(0.0, 2, (0.0,), ready_s=0.0))
    assert scheduler.decide(0.0).bytes_s == pytest.approx({2: 10 * MIB, 1: 0.0})


def test_lookahead_lets_a_hidden_transfer_wait_for_one_that_shows() -> None:
    scheduler = Scheduler("lookahead", {"link": 10 * MIB})
    scheduler.apply(admitted(1, MIB, 1.0))
    scheduler.apply(admitted(2, MIB, 0.0))
    scheduler.apply(Sent(0.0, 1, 2 * MIB))  # two seconds ahead of what it needs, and the other needs 1.6 s
    assert scheduler.decide(0.0).bytes_s == pytest.approx({1: 0.0, 2: 10 * MIB})


@pytest.mark.parametrize("policy", ["slack", "lookahead"])
def test_a_gang_is_as_late_as_its_latest_member(policy: str) -> None:
    """A delivery whose gang waits for another anyway leaves the link to one that nobody waits for."""
    for gang in ("", "step"):
        scheduler = Scheduler(policy, {"link": 10 * MIB, "slow": MIB / 4})
        scheduler.apply(admitted(1, MIB, 0.0, units=8, gang=gang))
        scheduler.apply(Admitted(0.0, 2, ("slow",), (8 * MIB,), gang=gang))
        scheduler.apply(admitted(3, MIB, 0.0, units=10))
        first = scheduler.decide(0.0).bytes_s
        assert first[3] == pytest.approx(10 * MIB if gang else 0.0)
        assert first[1] == pytest.approx(0.0 if gang else 10 * MIB)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_what_is_not_used_goes_to_others_and_comes_back_when_it_is(policy: str) -> None:
    cap = 400.0 * MIB
    world = World(
        Scheduler(policy, {"link": cap}),
        {"link": cap},
        [admitted(1, 4 * MIB, 0.0, units=64), admitted(2, 4 * MIB, 0.0, units=65)],
        slow={1: 20.0 * MIB},
    )
    while world.now_s < 0.25:
        decision = world.step(longest_s=0.01)
    assert decision is not None
    assert decision.bytes_s[2] >= 0.85 * cap
    assert policy == "slack" or decision.bytes_s[1] >= 20.0 * MIB  # slack lets it wait: it has more bytes left
    world.slow.clear()
    while world.step(longest_s=0.01) is not None:
        pass
    assert world.now_s < 0.25 + 516 * MIB / cap  # had the limit stayed, the first would have needed 12 s alone


def test_tenants_share_by_weight_whatever_number_of_deliveries_they_have() -> None:
    scheduler = Scheduler("equal", {"link": 120.0})
    for number in range(3):
        scheduler.apply(admitted(number, 1000, 0.0, tenant="a"))
    scheduler.apply(admitted(3, 1000, 0.0, tenant="b"))
    assert scheduler.decide(0.0).bytes_s == pytest.approx({0: 20.0, 1: 20.0, 2: 20.0, 3: 60.0})
    scheduler.apply(WeightChanged(0.0, "b", 3.0))
    assert scheduler.decide(0.0).bytes_s == pytest.approx({0: 10.0, 1: 10.0, 2: 10.0, 3: 90.0})


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="lookahead"):
        Scheduler("fair")
    with pytest.raises(ConfigError):
        Scheduler("equal", {"link": -1.0})
    scheduler = Scheduler("equal")
    with pytest.raises(ConfigError):
        scheduler.apply(PolicyChanged(0.0, ""))
    with pytest.raises(ConfigError):
        scheduler.apply(CapChanged(0.0, "link", float("nan")))
    with pytest.raises(ConfigError):
        scheduler.apply(WeightChanged(0.0, "a", 0.0))
    assert scheduler.policy == "equal"


@settings(max_examples=30, deadline=None)
@given(policy=policies, data=st.data())
def test_events_of_deliveries_that_are_not_there_are_ignored(policy: str, data: st.DataObject) -> None:
    scheduler = Scheduler(policy, {"link": 1e6})
    scheduler.apply(admitted(1, 1000, 0.01))
    scheduler.apply(Ended(0.0, 1))
    number = data.draw(st.sampled_from([1, 7]))
    scheduler.apply(Sent(0.1, number, 500))
    scheduler.apply(Landed(0.1, number, 1))
    scheduler.apply(WindowsChanged(0.1, number, (1.0,)))
    scheduler.apply(Ended(0.1, number))
    assert scheduler.decide(0.1).bytes_s == {}


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_a_link_without_any_bandwidth_and_a_delivery_without_bytes(policy: str) -> None:
    scheduler = Scheduler(policy, {"link": 0.0})
    scheduler.apply(admitted(1, 1000, 0.01))
    scheduler.apply(Admitted(0.0, 2, ("link",), ()))
    assert scheduler.decide(0.0).bytes_s == {1: 0.0, 2: 0.0}
    scheduler.apply(CapChanged(1.0, "link", 1e6))
    assert scheduler.decide(1.0).bytes_s[1] > 0.8e6
