"""Threads that move layers, kept for the next load: to start one takes as long as a small layer takes on the wire."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress

_Jobs = queue.SimpleQueue[Callable[[], None] | None]


class Movers:
    """Daemon threads, as many as jobs have run at the same time. They end when this is closed, or forgotten, and they
    have none."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._idle: list[_Jobs] = []
        self._closed = False
        weakref.finalize(self, _end, self._idle).atexit = False

    def run(self, job: Callable[[], None]) -> None:
        """In one of them, at once. `job` must not raise."""
        try:
            jobs = self._idle.pop()
        except IndexError:
            jobs = queue.SimpleQueue()
            threading.Thread(target=_serve, args=(jobs, weakref.ref(self)), name=self._name, daemon=True).start()
        jobs.put(job)

    def back(self, jobs: _Jobs) -> None:
        """Whoever takes `jobs` has none left."""
        self._idle.append(jobs)
        if self._closed:
            _end(self._idle)

    def close(self) -> None:
        """A job may still be run: its thread ends with it."""
        self._closed = True
        _end(self._idle)


def _serve(jobs: _Jobs, owner: weakref.ref[Movers]) -> None:
    while (job := jobs.get()) is not None:
        job()
        del job  # with what it holds
        movers = owner()
        if movers is None:
            return
        movers.back(jobs)
        del movers


def _end(idle: list[_Jobs]) -> None:
    with suppress(IndexError):  # others take from it too
        while True:
            idle.pop().put(None)
