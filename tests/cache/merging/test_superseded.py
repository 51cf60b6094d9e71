"""What was replaced stays while it may be needed, and leases follow it."""

from __future__ import annotations

from objectcache.cache.leases import LeaseTable
from objectcache.cache.superseded import Superseded


def test_after_the_grace_period_it_goes() -> None:
    table = Superseded(10.0)
    table.add([("a", 1), ("b", 2)], 100.0)
    table.add([("c", 3)], 105.0)
    assert table.due(109.9) == []
    assert table.due_in_s(109.9) > 5
    assert table.due(110.0) == ["a", "b"]
    assert "a" not in table
    assert "c" in table
    assert table.due(115.0) == ["c"]
    assert not table
    assert table.due_in_s(115.0) == 0.0


def test_deliveries_that_were_planned_before_are_waited_for() -> None:
    table = Superseded(10.0)
    table.planned(90.0, 30.0)
    table.planned(95.0, 5.0)
    table.add([("a", 1)], 100.0)
    table.planned(101.0, 600.0)  # it was planned without `a`
    assert table.due(119.9) == []
    assert table.due(120.0) == ["a"]


def test_for_room_what_no_delivery_of_this_process_needs() -> None:
    table = Superseded(10.0)
    table.add([("a", 5), ("b", 5), ("c", 5)], 100.0)
    assert table.for_room(6, 100.0) == (["a", "b"], 10)
    assert table.for_room(100, 100.0) == (["c"], 5)
    table.planned(100.0, 30.0)
    table.add([("d", 5)], 101.0)
    assert table.for_room(5, 129.0) == ([], 0)
    assert table.for_room(5, 130.0) == (["d"], 5)


def test_leases_follow_to_the_merged_segment() -> None:
    leases = LeaseTable(60.0)
    one, other = leases.grant([1, 2, 9], 0.0), leases.grant([2, 3], 1.0)
    leases.move([1, 2, 3], 7)
    assert leases.pinned == {7, 9}
    leases.release(one)
    assert leases.pinned == {7}
    leases.check(other, 60.5)
    leases.expire(61.0)
    assert not leases.pinned
    assert not len(leases)


def test_a_lease_that_comes_just_after_follows_too() -> None:
    leases = LeaseTable(60.0)
    leases.move([1, 2], 7)
    leases.move([7, 8], 9)
    leases.grant([1, 8, 5], 0.0)
    assert leases.pinned == {9, 5}
