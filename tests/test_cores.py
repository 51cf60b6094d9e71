"""Threads leave the core that the main thread was bound to, and only where a parent says where they may go."""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing.connection import Connection

import pytest

from objectcache.cores import leave_bound_core, only_on


def _allowed_in_a_thread() -> set[int]:
    found: list[set[int]] = []

    def run() -> None:
        leave_bound_core()
        found.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


def _bound(pipe: Connection) -> None:
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    pipe.send((_allowed_in_a_thread(), os.sched_getaffinity(0) == {core}))


def test_a_thread_leaves_the_core_of_a_bound_main_thread() -> None:
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_bound, args=(there,))
    process.start()
    assert here.poll(60)
    allowed, main_stays = here.recv()
    process.join(60)
    assert allowed == os.sched_getaffinity(0)
    assert main_stays


def test_a_process_of_its_own_stays_where_it_was_put(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: None)
    before = os.sched_getaffinity(0)
    assert _allowed_in_a_thread() == before


def test_what_is_started_meanwhile_stays_on_the_cores_that_it_got() -> None:
    before = os.sched_getaffinity(0)
    core = max(before)
    process = multiprocessing.get_context("spawn").Process(target=_wait, daemon=True)
    with only_on({core}):
        process.start()
    assert os.sched_getaffinity(0) == before
    assert process.pid is not None
    assert os.sched_getaffinity(process.pid) == {core}
    process.kill()
    process.join()


def _wait() -> None:
    threading.Event().wait()
