"""Look-ups in line: few threads, first come, first served; transfers begin as staging memory has room for them."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from time import perf_counter

from objectcache.connectors.vllm.worker.attempts import Attempt, Fetch
from objectcache.connectors.vllm.worker.cache_access import CacheAccess
from objectcache.connectors.vllm.worker.counters import Outcome
from objectcache.connectors.vllm.worker.fetching import Fetcher, Found, NothingToLoad
from objectcache.cores import leave_bound_core
from objectcache.errors import BufferPoolExhaustedError, ObjectCacheError

THREADS = 4
MAX_FOUND = 16
"""Matches that wait for room, each under a lease: more look-ups wait unanswered."""
_ROOM_AGAIN_S = 0.01

log = logging.getLogger(__name__)


class LookUpLine:
    """Threads start as they are needed, and end with `close`. What comes of an attempt goes to `on_found` (a transfer
    is under way) or `on_nothing`, in one of them."""

    def __init__(
        self,
        fetcher: Fetcher,
        access: CacheAccess,
        room_bytes: int,
        on_found: Callable[[Attempt, Fetch], None],
        on_nothing: Callable[[Attempt, Outcome], None],
    ) -> None:
        self._fetcher = fetcher
        self._access = access
        self._room_bytes = room_bytes
        self._on_found = on_found
        self._on_nothing = on_nothing
        self._changed = threading.Condition()
        self._asked: deque[Attempt] = deque()
        self._found: deque[tuple[Attempt, Found]] = deque()
        self._idle = 0
        self._threads: list[threading.Thread] = []
        self._closing = False

    # -- for the engine ---------------------------------------------------------------------------

    def put(self, attempt: Attempt) -> None:
        with self._changed:
            if self._closing:
                return
            self._asked.append(attempt)
            if not self._idle and len(self._threads) < THREADS:
                name = f"objectcache-look-up-{len(self._threads)}"
                self._threads.append(threading.Thread(target=self._run, name=name, daemon=True))
                self._threads[-1].start()
            self._changed.notify()

    def give_back(self, room_bytes: int) -> None:
        """Of a transfer that is over, its staging memory."""
        with self._changed:
            self._room_bytes += room_bytes
            self._changed.notify_all()

    def clear(self) -> list[Attempt]:
        """Those that nobody has looked up yet: they are not going to be."""
        with self._changed:
            waiting, self._asked = list(self._asked), deque()
        return waiting

    def close(self, timeout_s: float) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        until_s = perf_counter() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, until_s - perf_counter()))

    # -- in its threads ---------------------------------------------------------------------------

    def _run(self) -> None:
        leave_bound_core()  # and so do the cache's threads, which are started from here
        while True:
            with self._changed:
                job = self._next()
                while job is None and not self._closing:
                    self._idle += 1
                    # Whoever found no room although there seemed to be some tries again without being told.
                    self._changed.wait(_ROOM_AGAIN_S if self._found else None)
                    self._idle -= 1
                    job = self._next()
                if job is None or self._closing:
                    break
            attempt, found = job
            try:
                self._do(attempt, found)
            except Exception:
                log.exception("looking up request %r", attempt.order.request)
                self._on_nothing(attempt, Outcome.FAILED)

    def _next(self) -> tuple[Attempt, Found | None] | None:
        """The next look-up, or transfer, whose room is then taken. Holds the lock."""
        if self._found:
            attempt, found = self._found[0]
            if self._late(attempt) or found.room_bytes <= self._room_bytes:
                self._room_bytes -= found.room_bytes
                return self._found.popleft()
        if self._asked and len(self._found) < MAX_FOUND:
            return self._asked.popleft(), None
        return None

    def _late(self, attempt: Attempt) -> bool:
        return attempt.over or attempt.ended or perf_counter() > attempt.until_s

    def _do(self, attempt: Attempt, found: Found | None) -> None:
        if self._late(attempt):
            if found is not None:
                self.give_back(found.room_bytes)
                self._fetcher.release(found.match)
            self._on_nothing(attempt, Outcome.LATE if found is None else Outcome.NO_ROOM)
            return
        attempt.begun_s = perf_counter()
        try:
            if found is None:
                found = self._fetcher.find(attempt)
                with self._changed:
                    self._found.append((attempt, found))
                    self._changed.notify()
            else:
                self._start(attempt, found)
        except NothingToLoad as answer:
            if answer.error is not None:
                log.info("request %r: %s: %s", attempt.order.request, answer.outcome, answer.error)
            self._on_nothing(attempt, answer.outcome)
        finally:
            attempt.begun_s = None

    def _start(self, attempt: Attempt, found: Found) -> None:
        try:
            fetch = self._fetcher.start(found, attempt)
        except BufferPoolExhaustedError:  # in pieces, or in quarantine still
            with self._changed:
                self._room_bytes += found.room_bytes
                self._found.appendleft((attempt, found))
                self._changed.wait_for(lambda: self._closing, _ROOM_AGAIN_S)
            return
        except (NothingToLoad, ObjectCacheError):
            self.give_back(found.room_bytes)
            self._fetcher.release(found.match)
            raise
        self._on_found(attempt, fetch)
