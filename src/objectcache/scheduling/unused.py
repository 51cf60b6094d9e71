"""A delivery that sends less than it is given must not hold what it is given."""

from __future__ import annotations

from math import inf

SHORTEST_S = 0.02  # a rate is judged over at least this long: changes of rate and frames are coarser than a decision
LONGEST_S = 0.2
FEWEST_BYTES = 2 << 20  # and over at least as much as was given in it, since what is sent comes in frames
USES_LITTLE = 0.5
USES_ALL = 0.8
HEADROOM = 1.5  # what is left to one that uses little, times what it used
LEAST = 1 / 16  # of what it was given


class Use:
    """Of one delivery: `limit` (bytes/s) is what it gets at most while others want it."""

    __slots__ = ("_given", "_last_s", "_since_s", "_used", "limit")

    def __init__(self, now_s: float) -> None:
        self.limit = inf
        self._since_s = self._last_s = now_s
        self._given = 0.0
        self._used = 0

    def told(self, more_bytes: int) -> None:
        """`more_bytes` were sent since the last time."""
        self._used += more_bytes

    def judged(self, now_s: float, rate: float) -> bool:
        """`rate` was given since the last time. Whether `limit` is another now."""
        self._given += rate * max(0.0, now_s - self._last_s)
        self._last_s = max(self._last_s, now_s)
        lasted_s = now_s - self._since_s
        if lasted_s < SHORTEST_S or (self._given < FEWEST_BYTES and lasted_s < LONGEST_S):
            return False
        before = self.limit
        if self._given < inf and self._given > 0:
            if self._used < USES_LITTLE * self._given:
                self.limit = max(HEADROOM * self._used, LEAST * self._given) / lasted_s
            elif self.limit < inf and self._used >= USES_ALL * min(self._given, self.limit * lasted_s):
                self.limit *= 2
        self._since_s = now_s
        self._given = 0.0
        self._used = 0
        return self.limit != before

    def limited(self, bytes_s: float) -> bool:
        """Whether there is a limit. One that is no less than `bytes_s`, all that there is, is forgotten."""
        if self.limit >= bytes_s:
            self.limit = inf
        return self.limit < inf
