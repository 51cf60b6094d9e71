"""Jobs in order within a lane, lanes beside each other, on a few threads."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

Job = Callable[[], None]


class Lane:
    """What is still to be done of one thing, one after the other."""

    __slots__ = ("_jobs", "_queued")

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()
        self._queued = False


class Lanes:
    """Runs the jobs of many lanes on `threads` daemon threads. Jobs must not raise."""

    def __init__(self, threads: int, name: str) -> None:
        self._lock = threading.Lock()
        self._ready: SimpleQueue[Lane | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{index}", daemon=True) for index in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, lane: Lane, job: Job) -> None:
        """Queue `job` behind those of its lane. Takes microseconds, whatever runs."""
        with self._lock:
            lane._jobs.append(job)
            queued, lane._queued = lane._queued, True
        if not queued:
            self._ready.put(lane)

    def close(self, timeout_s: float) -> None:
        """End the threads, without what is queued; those that hang in a job are left behind after `timeout_s`."""
        for _ in self._threads:
            self._ready.put(None)
        deadline_s = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))

    def _run(self) -> None:
        while (lane := self._ready.get()) is not None:
            with self._lock:
                job = lane._jobs.popleft()
            job()
            del job  # with it what it holds
            with self._lock:
                lane._queued = bool(lane._jobs)
                again = lane._queued
            if again:
                self._ready.put(lane)
