"""When a load that comes too slowly is given up for computing everything. Pure: time is passed in.

Computing from the start takes `recompute_s` whenever it begins. So a load is given up early, while that costs next to
nothing, if what has come by then says that it will not be faster; and later, when what is left of it takes longer than
computing everything. At a constant rate, whatever it is, the first token is then no later than without a cache by more
than the allowance. A rate that collapses in the middle costs what was waited for by then, and no more than the
recomputation: nobody can know it before.
"""

from __future__ import annotations

from collections import deque

ALLOWANCE = 0.015
"""The share of `recompute_s` after which what has come must say that the load is worth it."""
_RECENT = 0.2  # of the time so far: over this much the rate is taken
_LEAST_RECENT_S = 0.002


class LoadGuard:
    """Watches one load. Times are seconds since it was asked for."""

    def __init__(
        self,
        payload_bytes: int,
        recompute_s: float,
        *,
        compute_s: float = 0.0,
        first_byte_s: float = 0.0,
        allowance_s: float | None = None,
    ) -> None:
        """`compute_s`: what the engine computes of the load's step in all. `allowance_s` replaces the default."""
        self._payload_bytes = payload_bytes
        self._recompute_s = recompute_s
        self._compute_s = compute_s
        self._first_byte_s = first_byte_s
        self.allowance_s = ALLOWANCE * recompute_s if allowance_s is None else allowance_s
        self._seen: deque[tuple[float, int]] = deque([(0.0, 0)])

    @property
    def next_look_s(self) -> float:
        """After how long to look again."""
        return min(0.05, max(0.0005, self.allowance_s / 8))

    def hopeless(self, now_s: float, arrived_bytes: int) -> bool:
        """`arrived_bytes` of the payload are there at `now_s`: whether to give up."""
        if arrived_bytes >= self._payload_bytes:
            return False
        recent_s = max(_LEAST_RECENT_S, self.allowance_s, _RECENT * now_s)
        self._seen.append((now_s, arrived_bytes))
        while len(self._seen) > 2 and self._seen[1][0] <= now_s - recent_s:
            self._seen.popleft()
        if now_s < self.allowance_s - self.next_look_s:
            return False
        left_s = self._left_s(now_s, arrived_bytes)
        if now_s <= self.allowance_s + self.next_look_s:
            return now_s + left_s > self._recompute_s + self.allowance_s
        return left_s > self._recompute_s

    def _left_s(self, now_s: float, arrived_bytes: int) -> float:
        """How much longer it takes at the rate at which it came lately, or in all if that was slower."""
        since_s, before_bytes = self._seen[0]
        recent = (arrived_bytes - before_bytes) / max(now_s - max(since_s, self._first_byte_s), 1e-9)
        overall = arrived_bytes / max(now_s - self._first_byte_s, 1e-9)
        rate = min(recent, overall)
        if rate <= 0:
            return float("inf")
        share = 1 - arrived_bytes / self._payload_bytes
        return max((self._payload_bytes - arrived_bytes) / rate, share * self._compute_s)
