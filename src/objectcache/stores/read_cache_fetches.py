"""Fetching what is announced and what is asked for, each thing once at a time, by a few threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from threading import Condition, Thread

from objectcache.errors import StoreError

THREADS = 16
QUEUED = 1024
"""How much may be announced and wait. What does not fit is fetched when it is asked for."""

Job = tuple[Hashable, Callable[[], None]]
"""A key, and what brings what it names; may raise StoreError."""


class _Fetch:
    def __init__(self, key: Hashable, run: Callable[[], None]) -> None:
        self.key, self.run = key, run
        self.begun = False
        self.done = False
        self.error: StoreError | None = None


class Fetches:
    """Thread-safe. Threads are started when they are needed, and end with `close`."""

    def __init__(self, threads: int = THREADS, queued: int = QUEUED) -> None:
        self._limit, self._queued = threads, queued
        self._changed = Condition()
        self._queue: deque[_Fetch] = deque()
        self._running: dict[Hashable, _Fetch] = {}
        self._threads: list[Thread] = []
        self._idle = 0
        self._closed = False

    def announce(self, key: Hashable, run: Callable[[], None]) -> None:
        """Run it soon, after what was announced before. Does not block; its errors are nobody's."""
        with self._changed:
            if not self._closed and key not in self._running and len(self._queue) < self._queued:
                self._enqueue(_Fetch(key, run), first=False)

    def bring(self, jobs: Sequence[Job]) -> None:
        """Return when all of `jobs` have run. They go before what was announced, and this thread does its share.

        Raises what the first of them that failed raised.
        """
        own: set[_Fetch] = set()
        wanted: list[_Fetch] = []
        with self._changed:
            for key, run in jobs:
                fetch = self._running.get(key)
                if fetch is None:
                    fetch = self._running[key] = _Fetch(key, run)
                    own.add(fetch)
                wanted.append(fetch)
            # The first one is for this thread; the others are put before what was only announced.
            for fetch in reversed(wanted[1:]):
                if not fetch.begun and not self._closed:
                    self._enqueue(fetch, first=True)
        for fetch in wanted:
            if self._begin(fetch):
                self._run(fetch)
        for fetch, (_, run) in zip(wanted, jobs, strict=True):
            with self._changed:
                while not fetch.done:
                    self._changed.wait()
            if fetch.error is None:
                continue
            if fetch in own:
                raise fetch.error
            run()  # it failed for somebody else, whose reader may have been closed

    def close(self) -> None:
        """Waits for what is under way."""
        with self._changed:
            self._closed = True
            for fetch in self._queue:
                if not fetch.begun:
                    self._running.pop(fetch.key, None)
            self._queue.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _enqueue(self, fetch: _Fetch, *, first: bool) -> None:
        self._running[fetch.key] = fetch
        if first:
            self._queue.appendleft(fetch)
        else:
            self._queue.append(fetch)
        if self._idle:
            self._changed.notify_all()
        elif len(self._threads) < self._limit:
            thread = Thread(target=self._work, name="objectcache-fetch", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _begin(self, fetch: _Fetch) -> bool:
        """Whether it is the caller who runs it."""
        with self._changed:
            begins = not fetch.begun
            fetch.begun = True
            return begins

    def _run(self, fetch: _Fetch) -> None:
        try:
            fetch.run()
        except StoreError as error:
            fetch.error = error
        finally:
            with self._changed:
                fetch.done = True
                if self._running.get(fetch.key) is fetch:
                    del self._running[fetch.key]
                self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._closed:
                    self._idle += 1
                    self._changed.wait()
                    self._idle -= 1
                if not self._queue:
                    return
                fetch = self._queue.popleft()
            if self._begin(fetch):
                self._run(fetch)
