"""Orders in shared memory, and lanes."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.storing.board import ENTRIES, EngineBoard, Order, ProcessBoard
from objectcache.storing.lanes import Lane, Lanes
from tests.storing.engine import WAIT_S


@pytest.fixture
def boards() -> Iterator[tuple[EngineBoard, ProcessBoard]]:
    engine = EngineBoard()
    yield engine, ProcessBoard(engine.fd)
    engine.close()


def test_orders_are_seen_until_they_are_read(boards: tuple[EngineBoard, ProcessBoard]) -> None:
    engine, process = boards
    first, second = Order(7, 0, 1 << 40, 4096, 16), Order(7, 1, 0, 1, 1)
    assert process.orders() == []
    assert engine.order(first)
    assert engine.order(second)
    seen = {order: entry for entry, order in process.orders()}
    assert set(seen) == {first, second}
    process.read(seen[second])
    assert [order for _, order in process.orders()] == [first]
    assert engine.take() == [(7, 1)]
    assert engine.take() == []
    engine.forget(7)
    assert process.orders() == []
    assert engine.take() == []


def test_the_board_has_an_end(boards: tuple[EngineBoard, ProcessBoard]) -> None:
    engine, process = boards
    taken = [engine.order(Order(1, position, 0, 1, 1)) for position in range(ENTRIES + 1)]
    assert taken == [True] * ENTRIES + [False]
    process.read(process.orders()[0][0])
    assert not engine.order(Order(2, 0, 0, 1, 1))
    assert len(engine.take()) == 1
    assert engine.order(Order(2, 0, 0, 1, 1))


@given(st.lists(st.integers(0, 3), max_size=60))
def test_a_lane_keeps_its_order(numbers: list[int]) -> None:
    lanes = Lanes(3, "test")
    each = [Lane() for _ in range(4)]
    done: list[list[int]] = [[], [], [], []]
    left = threading.Semaphore(0)

    def job(lane: int, index: int) -> None:
        done[lane].append(index)
        left.release()

    for index, lane in enumerate(numbers):
        lanes.submit(each[lane], lambda lane=lane, index=index: job(lane, index))  # type: ignore[misc]
    for _ in numbers:
        assert left.acquire(timeout=WAIT_S)
    lanes.close(WAIT_S)
    assert done == [[index for index, lane in enumerate(numbers) if lane == which] for which in range(4)]


def test_a_lane_that_hangs_holds_no_other_up() -> None:
    lanes = Lanes(2, "test")
    go, other = threading.Event(), threading.Event()

    def hang() -> None:
        go.wait(WAIT_S)

    lanes.submit(Lane(), hang)
    lanes.submit(Lane(), other.set)
    assert other.wait(WAIT_S)
    lanes.close(0.01)
    go.set()
