"""How long joining waits, on a clock that the waits themselves turn."""

from __future__ import annotations

import threading
import time

import pytest

from objectcache.joining import JoinStoppedError, Pace


class Clock(threading.Event):
    """Time passes where it is waited."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 100.0
        self.waits_s: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waits_s.append(timeout)
        self.now_s += timeout
        return self.is_set()


def test_the_rate_is_kept_over_what_was_read() -> None:
    clock = Clock()
    pace = Pace(1000, stopped=clock, clock=clock)
    clock.now_s += 0.25  # reading took so long
    pace(1000)
    pace(500)
    assert clock.waits_s == pytest.approx([0.75, 0.5])


def test_slow_reading_waits_for_nothing_and_saves_nothing_up() -> None:
    clock = Clock()
    pace = Pace(1000, stopped=clock, clock=clock)
    clock.now_s += 60
    pace(1000)
    pace(1000)
    assert clock.waits_s == pytest.approx([0.0, 1.0])


def test_beside_deliveries_half_of_the_time() -> None:
    clock, busy = Clock(), False
    pace = Pace(is_busy=lambda: busy, stopped=clock, clock=clock)
    clock.now_s += 3
    pace(1 << 30)
    busy = True
    clock.now_s += 3
    pace(1 << 30)
    assert clock.waits_s == pytest.approx([0.0, 3.0])


def test_a_wait_ends_when_it_is_stopped() -> None:
    stopped = threading.Event()
    pace = Pace(1.0, stopped=stopped)
    threading.Timer(0.05, stopped.set).start()
    began_s = time.monotonic()
    with pytest.raises(JoinStoppedError):
        pace(3600)
    assert time.monotonic() - began_s < 60
