"""How fast one delivery may be sent: a bucket of time that its streams draw on, at a rate that somebody else sets."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

STEP_S = 0.001
"""How long what goes out in one go may take at the delivery's rate: what was begun cannot be recalled."""
LEAST_STEP_BYTES = 64 << 10
MOST_STEP_BYTES = 8 << 20
PAGE_BYTES = 4096
LATENESS_S = 0.0025
"""How much of what it could have sent a delivery makes up for: a thread that is woken late must not cost rate, nor add
more to any 50 ms than they may be off by. In the beginning there is nothing to make up for."""
LOOK_S = 0.004
"""How often the rate is looked at while nothing may be sent."""


class Pace:
    """Of one delivery. Pure but for where the rate comes from. Not thread-safe: its session's lock guards it."""

    def __init__(self, rate: Callable[[], float], report: Callable[[int], None], taken_bytes: int = 0) -> None:
        """`rate()` are payload bytes a second, from now on; 0: paused, inf: no bound. `report(total_bytes)` is told
        what has been taken since the start, `taken_bytes` of it before this."""
        self._rate = rate
        self._report = report
        self._bytes_s = inf
        self._free_s = -inf  # from when on more may be taken
        self.seen_s = -inf
        """What `due_s` said last."""
        self._taken_bytes = taken_bytes

    def due_s(self, now_s: float) -> float:
        """From when on bytes may be taken, as far as is known now: at most LOOK_S from now."""
        bytes_s = self._rate()
        if bytes_s != self._bytes_s:
            self._change(bytes_s, now_s)
        if bytes_s <= 0 or (self._free_s == -inf and bytes_s < inf):
            self._free_s = now_s  # nothing is made up for
        self.seen_s = now_s + LOOK_S if bytes_s <= 0 else min(self._free_s, now_s + LOOK_S)
        return self.seen_s

    def _change(self, bytes_s: float, now_s: float) -> None:
        """What was taken at the old rate has its time at that, or at the new one where that is less."""
        wait_s = self._free_s - now_s
        if wait_s > 0:
            self._free_s = now_s + min(wait_s, wait_s * self._bytes_s / bytes_s if bytes_s > 0 else wait_s)
        self._bytes_s = bytes_s

    @property
    def bound(self) -> bool:
        """Whether there was a bound when `due_s` looked."""
        return self._bytes_s < inf

    @property
    def step_bytes(self) -> int:
        """How much to take in one go, at the rate that `due_s` saw."""
        if self._bytes_s * STEP_S >= MOST_STEP_BYTES:
            return MOST_STEP_BYTES
        return max(LEAST_STEP_BYTES, int(self._bytes_s * STEP_S) // PAGE_BYTES * PAGE_BYTES)

    def take(self, data_bytes: int, now_s: float) -> None:
        """`data_bytes` go out now; after `due_s` said that they may."""
        self._taken_bytes += data_bytes
        self._report(self._taken_bytes)
        if self._bytes_s < inf:
            self._free_s = max(self._free_s, now_s - LATENESS_S) + data_bytes / self._bytes_s
