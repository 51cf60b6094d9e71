"""A circuit breaker: what fails repeatedly is left alone for a while, then tried again. Pure: time is passed in."""

from __future__ import annotations

FAILURES_TO_OPEN = 3
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 15.0


class Breaker:
    """Closed: everything may try. Open: nothing may. Half open, after the pause: one may try, and decides."""

    def __init__(self, failures_to_open: int = FAILURES_TO_OPEN) -> None:
        """It opens after so many failures in a row."""
        self._failures_to_open = failures_to_open
        self._failures = 0
        self._pause_s = FIRST_PAUSE_S
        self._closed_again_s: float | None = None
        self._trying = False

    def allows(self, now_s: float) -> bool:
        """Whether to try now. After a pause, True once; then again after the next one."""
        if self._closed_again_s is None:
            return True
        if now_s < self._closed_again_s:
            return False
        self._closed_again_s = now_s + self._pause_s
        self._trying = True
        return True

    def succeeded(self) -> None:
        self._failures = 0
        self._pause_s = FIRST_PAUSE_S
        self._closed_again_s = None
        self._trying = False

    def failed(self, now_s: float) -> None:
        self._failures += 1
        if self._failures < self._failures_to_open:
            return
        if self._closed_again_s is not None:
            if not self._trying:
                return  # it was under way already when the others failed: nothing new
            self._trying = False
            self._pause_s = min(LONGEST_PAUSE_S, self._pause_s * 2)
        self._closed_again_s = now_s + self._pause_s

    @property
    def is_open(self) -> bool:
        return self._closed_again_s is not None
