"""What gateways know how to do that older ones do not. Pure: time is passed in."""

from __future__ import annotations

from math import inf

AGAIN_S = 60.0
"""After so long it is tried again: gateways are replaced while their clients run."""


class Ability:
    """One of them. It is taken to be there, until it turns out that it is not; then again after a while."""

    def __init__(self) -> None:
        self._missed_s = -inf

    def expected(self, now_s: float) -> bool:
        return now_s - self._missed_s >= AGAIN_S

    def missed(self, now_s: float) -> None:
        """It was not there."""
        self._missed_s = now_s
