"""How fast segments are joined: never faster than a rate, and beside deliveries at most half of the time."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from objectcache.joining.segments import JoinStoppedError

DEFAULT_BYTES_S = 64 << 20
"""Some 5 % of one core, and of what a disk does."""


class Pace:
    """Called with what was read since the last call; waits until going on is right. One thread at a time."""

    def __init__(
        self,
        bytes_s: float = math.inf,
        *,
        is_busy: Callable[[], bool] = lambda: False,
        stopped: threading.Event | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`is_busy()` says whether deliveries are under way. Once `stopped` is set, calls raise JoinStoppedError."""
        self._bytes_s, self._is_busy, self._clock = bytes_s, is_busy, clock
        self._stopped = stopped or threading.Event()
        self._began_s = self._free_at_s = clock()

    def __call__(self, read_bytes: int) -> None:
        """Raises JoinStoppedError, at once when that is while it waits."""
        now_s = self._clock()
        self._free_at_s = max(self._free_at_s, self._began_s) + read_bytes / self._bytes_s
        worked_s = now_s - self._began_s if self._is_busy() else 0.0
        if self._stopped.wait(max(0.0, self._free_at_s - now_s, worked_s)):
            raise JoinStoppedError("merging was stopped")
        self._began_s = self._clock()
