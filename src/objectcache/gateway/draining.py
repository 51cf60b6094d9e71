"""A gateway that is to stop takes nothing new."""

from __future__ import annotations

from objectcache.errors import DrainingError


class Drain:
    """Whether a gateway is about to stop."""

    def __init__(self) -> None:
        self._begun = False

    def begin(self) -> None:
        self._begun = True

    def check(self) -> None:
        """Raises DrainingError."""
        if self._begun:
            raise DrainingError("this gateway is shutting down: ask another")
