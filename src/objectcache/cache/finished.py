"""Uploads that are whole in the store and wait for their commit. Pure: time is passed in."""

from __future__ import annotations

from collections.abc import Iterable

from objectcache.cache.base import UploadTicket

UPLOAD_TTL_S = 600.0


class FinishedUploads:
    """Not thread-safe; its owner locks. `now_s` is any clock that does not go back."""

    def __init__(self, ttl_s: float = UPLOAD_TTL_S) -> None:
        self._ttl_s = ttl_s
        self._held: dict[str, tuple[UploadTicket, float]] = {}

    def add(self, ticket: UploadTicket, now_s: float) -> list[str]:
        """It may be committed for a while. Returns the names of those that have waited too long: they are dropped."""
        self._held[ticket.header.name] = (ticket, now_s)
        stale = [name for name, (_, since_s) in self._held.items() if since_s < now_s - self._ttl_s]
        return self.drop(stale)

    def get(self, name: str) -> UploadTicket | None:
        held = self._held.get(name)
        return None if held is None else held[0]

    def drop(self, names: Iterable[str]) -> list[str]:
        """Hold them no longer. Returns those that were held."""
        return [name for name in names if self._held.pop(name, None) is not None]

    def __contains__(self, name: str) -> bool:
        return name in self._held
