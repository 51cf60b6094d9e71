"""When a process asks what others have written: by a timer, or, where asking costs something, only while it is used."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from objectcache.errors import ObjectCacheError

log = logging.getLogger(__name__)

CATCH_UP_S = 1.0
"""The longest that a match waits for the logs to be read. After that it goes on with what is known."""


@dataclass(frozen=True, slots=True)
class Rhythm:
    """`interval_s` lies between two looks at the logs. After `idle_after_s` without use nobody looks, and what was then
    known counts as too old once it is `fresh_s` old. What is slow is done every `slow_s` of use, first after
    `slow_first_s`.
    """

    interval_s: float
    idle_after_s: float
    fresh_s: float
    slow_s: float
    slow_first_s: float


NEAR = Rhythm(interval_s=0.5, idle_after_s=math.inf, fresh_s=math.inf, slow_s=3600.0, slow_first_s=0.0)
FAR = Rhythm(interval_s=1.0, idle_after_s=30.0, fresh_s=2.0, slow_s=6 * 3600.0, slow_first_s=600.0)


class Schedule:
    """What is due when. Pure: `now_s` is on any one clock."""

    def __init__(self, rhythm: Rhythm, now_s: float) -> None:
        """The logs have just been looked at."""
        self._rhythm = rhythm
        self._used_s = self._looked_s = self._ended_s = now_s
        self._slow_at_s = now_s + rhythm.slow_first_s

    def use(self, now_s: float) -> None:
        self._used_s = now_s

    def looked(self, began_s: float, ended_s: float) -> None:
        """The logs were looked at, with success or without."""
        self._looked_s, self._ended_s = began_s, ended_s

    def is_fresh(self, now_s: float) -> bool:
        """Whether what is known is new enough to answer from."""
        return now_s - self._looked_s <= self._rhythm.fresh_s

    def look_in_s(self, now_s: float) -> float:
        """How long until the logs are to be looked at; infinite without use."""
        if now_s - self._used_s > self._rhythm.idle_after_s:
            return math.inf
        return max(0.0, self._ended_s + self._rhythm.interval_s - now_s)

    def take_slow(self, now_s: float) -> bool:
        """Whether what is slow is due; it then counts as done."""
        if now_s < self._slow_at_s:
            return False
        self._slow_at_s = now_s + self._rhythm.slow_s
        return True


class Background:
    """One thing at a time, in a thread of its own. `on_failure(error)` is told of errors."""

    def __init__(self, name: str, on_failure: Callable[[ObjectCacheError], None]) -> None:
        self._name, self._on_failure = name, on_failure
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def begin(self, work: Callable[[], object]) -> bool:
        """Begin `work`, unless something is under way. Whether it was begun."""
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return False
            self._thread = threading.Thread(target=self._run, args=[work], name=self._name, daemon=True)
            self._thread.start()
            return True

    def _run(self, work: Callable[[], object]) -> None:
        try:
            work()
        except ObjectCacheError as error:
            self._on_failure(error)

    def wait(self) -> None:
        """Return when nothing is under way."""
        with self._lock:
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()


class Following:
    """Looks at the logs from a thread of its own; what is slow is done in another. All calls from any thread.

    `on_failure(error)` is told of errors of either.
    """

    def __init__(
        self,
        look: Callable[[], object],
        slow: Callable[[], object],
        rhythm: Rhythm,
        on_failure: Callable[[ObjectCacheError], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look, self._slow, self._on_failure, self._clock = look, slow, on_failure, clock
        self._background = Background("slow", on_failure)
        self._schedule = Schedule(rhythm, clock())
        self._condition = threading.Condition()
        self._began_s: float | None = None  # of the look that is under way
        self._looks = 0
        self._stopped = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="follow", daemon=True)
        self._thread.start()

    def use(self) -> bool:
        """The cache is in use. Whether what is known is new enough, so that `catch_up` would return at once."""
        with self._condition:
            now_s = self._clock()
            if math.isinf(self._schedule.look_in_s(now_s)):
                # The thread waits for this. Otherwise it wakes by itself, and to wake it is to wait for it: it would
                # have the interpreter's lock the next time that who asks lets go of it.
                self._condition.notify_all()
            self._schedule.use(now_s)
            return self._thread is None or self._schedule.is_fresh(now_s)

    def catch_up(self, deadline_s: float = CATCH_UP_S) -> None:
        """Return when what is known is new enough, or cannot be had within `deadline_s`. Counts as use."""
        if self.use():
            return
        with self._condition:
            looks, now_s = self._looks, self._clock()
            until_s = (now_s if self._began_s is None else self._began_s) + deadline_s
            while self._looks == looks and now_s < until_s and not self._stopped:
                self._condition.wait(until_s - now_s)
                now_s = self._clock()

    def step(self) -> float:
        """Do what is due; how many seconds until something is again."""
        with self._condition:
            began_s = self._clock()
            wait_s = self._schedule.look_in_s(began_s)
            if wait_s > 0:
                return wait_s
            self._began_s = began_s
        try:
            self._look()
        except ObjectCacheError as error:
            self._on_failure(error)
        finally:
            with self._condition:
                self._schedule.looked(began_s, self._clock())
                self._began_s = None
                self._looks += 1
                self._condition.notify_all()
        with self._condition:
            now_s = self._clock()
            if self._schedule.take_slow(now_s):
                self._background.begin(self._slow)
            return self._schedule.look_in_s(now_s)

    def _run(self) -> None:
        while not self._stopped:
            self.step()
            with self._condition:
                # Once more, as it is now: somebody may have begun to use the cache meanwhile.
                wait_s = self._schedule.look_in_s(self._clock())
                if wait_s > 0 and not self._stopped:
                    self._condition.wait(None if math.isinf(wait_s) else wait_s)

    def stop(self) -> None:
        """Return when neither runs any more."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._background.wait()
