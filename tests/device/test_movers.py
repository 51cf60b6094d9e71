"""Threads that are used again, and end with their owner."""

from __future__ import annotations

import gc
import threading
import time

from objectcache.device.movers import Movers
from tests.gateway.process import eventually

NAME = "test-movers"
PATIENCE_S = 20.0


def running() -> int:
    return sum(thread.name == NAME for thread in threading.enumerate())


def test_a_thread_is_used_again_and_ends_with_its_owner() -> None:
    movers = Movers(NAME)
    idle, seen = movers._idle, []
    for _ in range(3):
        done = threading.Event()

        def job(done: threading.Event = done) -> None:
            seen.append(threading.get_ident())
            done.set()

        movers.run(job)
        assert done.wait(PATIENCE_S)
        eventually(lambda: idle, "it has nothing to do any more")
    assert len(set(seen)) == 1
    del movers
    gc.collect()
    eventually(lambda: not running(), "it has ended")


def test_jobs_at_the_same_time_do_not_wait_for_each_other() -> None:
    movers = Movers(NAME)
    meeting = threading.Barrier(3)

    def meet() -> None:
        meeting.wait(PATIENCE_S)

    for _ in range(2):
        movers.run(meet)
    meeting.wait(PATIENCE_S)
    del movers
    gc.collect()
    eventually(lambda: not running(), "both have ended")


def test_who_is_busy_when_the_owner_goes_ends_afterwards() -> None:
    movers, going = Movers(NAME), threading.Event()

    def wait() -> None:
        going.wait(PATIENCE_S)

    movers.run(wait)
    del movers
    gc.collect()
    time.sleep(0.05)
    assert running() == 1
    going.set()
    eventually(lambda: not running(), "it has ended")


def test_closed_it_ends_its_threads_and_still_runs_a_job() -> None:
    movers, done = Movers(NAME), threading.Event()
    for _ in range(2):
        done.clear()
        movers.run(done.set)
        assert done.wait(PATIENCE_S)
        movers.close()
        eventually(lambda: not running(), "it has ended")
