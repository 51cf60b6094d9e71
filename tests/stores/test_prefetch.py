"""The book-keeping of what is read ahead, with GETs that end when the test says so."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

import pytest

from objectcache.stores.prefetch import PrefetchBudget, Prefetched

LIMIT_BYTES = 1000


class Gets:
    """What was asked for, by (start, stop)."""

    def __init__(self) -> None:
        self.answers: dict[tuple[int, int], Future[memoryview]] = {}

    def __call__(self, start: int, stop: int) -> Future[memoryview]:
        self.answers[start, stop] = Future()
        return self.answers[start, stop]

    def run(self) -> None:
        for answer in self.answers.values():
            answer.set_running_or_notify_cancel()

    def end(self) -> None:
        for (start, stop), answer in self.answers.items():
            if not answer.cancelled():
                answer.set_result(memoryview(bytes(stop - start)))


def every(piece_bytes: int) -> Callable[[int, int], list[tuple[int, int]]]:
    return lambda start, stop: [(at, min(at + piece_bytes, stop)) for at in range(start, stop, piece_bytes)]


def _spans(prefetched: Prefetched, start: int, stop: int) -> list[tuple[int, int]]:
    return [(piece.start, piece.stop) for piece in prefetched.overlapping(start, stop)]


def test_ranges_are_cut_into_pieces_and_fetched_once() -> None:
    gets, prefetched = Gets(), Prefetched(PrefetchBudget(LIMIT_BYTES))
    prefetched.begin(100, 350, every(100), gets)
    prefetched.begin(0, 120, every(100), gets)
    prefetched.begin(300, 400, every(100), gets)
    prefetched.begin(150, 160, every(100), gets)
    assert list(gets.answers) == [(100, 200), (200, 300), (300, 350), (0, 100), (350, 400)]
    gets.run()
    assert _spans(prefetched, 0, 400) == [(0, 100), (100, 200), (200, 300), (300, 350), (350, 400)]
    assert _spans(prefetched, 199, 301) == [(100, 200), (200, 300), (300, 350)]
    assert _spans(prefetched, 400, 500) == []


def test_room_is_bounded_and_comes_back() -> None:
    gets, budget = Gets(), PrefetchBudget(LIMIT_BYTES)
    one, other = Prefetched(budget), Prefetched(budget)
    one.begin(0, 800, every(400), gets)
    other.begin(0, 800, every(400), gets)
    assert budget.free_bytes == 200
    gets.run()
    assert _spans(other, 0, 800) == []
    (first, second) = one.overlapping(0, 800)
    gets.end()
    one.picked_up(first, 300)
    assert budget.free_bytes == 200
    one.picked_up(first, 100)
    assert budget.free_bytes == 600
    one.drop(second)
    one.drop(second)
    one.picked_up(second, 400)
    assert budget.free_bytes == LIMIT_BYTES


def test_bytes_count_until_nothing_fetches_them() -> None:
    gets, budget = Gets(), PrefetchBudget(LIMIT_BYTES)
    prefetched = Prefetched(budget)
    prefetched.begin(0, 300, every(100), gets)
    for answer in list(gets.answers.values())[:2]:
        answer.set_running_or_notify_cancel()
    prefetched.close()
    assert budget.free_bytes == LIMIT_BYTES - 200
    gets.end()
    assert budget.free_bytes == LIMIT_BYTES
    prefetched.begin(0, 300, every(100), gets)
    assert budget.free_bytes == LIMIT_BYTES


def test_a_read_does_not_wait_for_what_has_not_begun() -> None:
    gets, budget = Gets(), PrefetchBudget(LIMIT_BYTES)
    prefetched = Prefetched(budget)
    prefetched.begin(0, 300, every(100), gets)
    gets.answers[100, 200].set_running_or_notify_cancel()
    assert _spans(prefetched, 0, 300) == [(100, 200)]
    assert [span for span, answer in gets.answers.items() if answer.cancelled()] == [(0, 100), (200, 300)]
    assert budget.free_bytes == LIMIT_BYTES - 100


def test_threads_that_take_no_more_work() -> None:
    def refuse(start: int, stop: int) -> Future[memoryview]:
        raise RuntimeError

    budget = PrefetchBudget(LIMIT_BYTES)
    with pytest.raises(RuntimeError):
        Prefetched(budget).begin(0, 100, every(100), refuse)
    assert budget.free_bytes == LIMIT_BYTES
