"""The thread of a worker's agent: whatever is asked of NIXL is asked by it, and it makes the progress.

Two threads that make progress for one agent hold each other up; and who only wants to begin something would wait long
for the agent's lock, which is free for a moment between two looks. So streams hand over what they want. While anything
is in flight it looks again at once as long as looking moves something.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from objectcache.errors import DeliveryError, ObjectCacheError
from objectcache.transports.nixl.agent import Agent, Region
from objectcache.transports.shared_memory import MappedPiece

BUSY_S = 0.00005
"""A look that takes longer has moved something."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.00005, 0.0002
"""Between looks that move nothing."""
TICK_S, IDLE_TICK_S = 0.005, 0.05
"""And where nothing is in flight: for last words that were left waiting, and for peers that come and go."""

_T = TypeVar("_T")


class _Asked:
    """What one thread waits for. `do(agent)` is a handle of what is in flight, or what was asked for."""

    __slots__ = ("_over", "do", "error", "flies", "found")

    def __init__(self, do: Callable[[Agent], Any], *, flies: bool) -> None:
        self.do = do
        self.flies = flies
        self.found: Any = None
        self.error: Exception | None = None
        self._over = threading.Lock()
        self._over.acquire()

    def tell(self) -> None:
        self._over.release()

    def wait(self) -> Any:
        self._over.acquire()
        if self.error is not None:
            raise self.error
        return self.found


class Flights:
    """WRITEs of `agent` that are in flight, and whatever else it is to do. Thread-safe."""

    def __init__(self, agent: Agent, busy: Callable[[], bool]) -> None:
        """`busy()` says whether somebody's deliveries are under way."""
        self._agent = agent
        self._busy = busy
        self._asked: deque[_Asked] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="nixl-progress", daemon=True)
        self._thread.start()

    def write(self, pieces: Sequence[MappedPiece], peer: str, region: Region, offset: int, notification: bytes) -> None:
        """As `Agent.post`; returns when it has landed. Raises DeliveryError; nothing is in flight then either."""
        self._wait_for(_Asked(lambda agent: agent.post(pieces, peer, region, offset, notification), flies=True))

    def ask(self, do: Callable[[Agent], _T]) -> _T:
        """What `do` returns, or raises, for the agent."""
        found: _T = self._wait_for(_Asked(do, flies=False))
        return found

    def _wait_for(self, asked: _Asked) -> Any:
        with self._changed:
            if self._closed:
                raise DeliveryError("NIXL: the agent has ended")
            self._asked.append(asked)
            self._changed.notify()
        return asked.wait()

    def close(self) -> None:
        """When all of it has been done."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        flying: list[_Asked] = []
        pause_s = drained_s = 0.0
        while True:
            asked = self._next(pause_s if flying else None)
            if (now_s := time.perf_counter()) > drained_s + TICK_S:
                drained_s = now_s
                with suppress(DeliveryError):  # nobody has anything to tell a worker, but what is told takes memory
                    self._agent.notifications()
            if asked is not None and self._begin(asked):
                flying.append(asked)
            if not flying:
                if asked is None:
                    with self._changed:
                        if self._closed and not self._asked:
                            return
                continue
            still, longest_s, begun_s = [], 0.0, time.perf_counter()
            for flight in flying:
                if not self._over(flight):
                    still.append(flight)
                looked_s = time.perf_counter()
                longest_s, begun_s = max(longest_s, looked_s - begun_s), looked_s
            moved = asked is not None or len(still) < len(flying) or longest_s > BUSY_S
            pause_s = 0.0 if moved else min(max(2 * pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
            flying = still

    def _next(self, pause_s: float | None) -> _Asked | None:
        """What was asked, waited for as long; None: while nothing is in flight."""
        if pause_s is None:
            pause_s = TICK_S if self._busy() else IDLE_TICK_S
        with self._changed:
            if pause_s and not self._asked and not self._closed:
                self._changed.wait(pause_s)
            return self._asked.popleft() if self._asked else None

    def _begin(self, asked: _Asked) -> bool:
        """Whether it is in flight now."""
        try:
            asked.found = asked.do(self._agent)
        except Exception as error:  # noqa: BLE001 - the asker's, who has it raised
            asked.error = error
        else:
            if asked.flies:
                return True
        asked.tell()
        return False

    def _over(self, flight: _Asked) -> bool:
        try:
            if not self._agent.landed(flight.found):
                return False
        except Exception as error:  # noqa: BLE001 - as above
            flight.error = error
        with suppress(ObjectCacheError):
            self._agent.release(flight.found)
        flight.tell()
        return True
