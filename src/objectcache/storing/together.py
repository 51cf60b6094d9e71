"""Stores of one engine step, which become visible in one commit, or not at all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from objectcache.cache.base import UploadTicket
from objectcache.errors import ObjectCacheError
from objectcache.storing.reasons import Reason


class Member(Protocol):
    """What a store must be able to do here."""

    @property
    def reason(self) -> Reason | None: ...
    def begin_commit(self) -> bool:
        """From now on only the commit decides; False when it was dropped meanwhile."""

    def committed(self) -> None: ...
    def drop(self, reason: Reason, error: ObjectCacheError | None = None) -> None: ...
    def commit_failed(self, error: ObjectCacheError) -> None: ...


class Together:
    """Waits until each member has finished or was dropped. Thread-safe."""

    def __init__(
        self,
        members: Sequence[Member],
        *,
        commit: Callable[[Together], None],
        discard: Callable[[Sequence[UploadTicket]], None],
    ) -> None:
        """`commit(self)` is called once, if at all; then `committed` or `failed` says how it went."""
        self._lock = threading.Lock()
        self._waiting = set(members)
        self._finished: dict[Member, list[UploadTicket]] = {}
        self._over = False
        self._commit = commit
        self._discard = discard

    @property
    def tickets(self) -> list[UploadTicket]:
        return [ticket for tickets in self._finished.values() for ticket in tickets]

    def finished(self, member: Member, tickets: list[UploadTicket]) -> None:
        """All of its segments are whole. Without a ticket, everything turned out to be stored already."""
        if not tickets:
            member.drop(Reason.COVERED)
            return
        with self._lock:
            over = self._over
            self._waiting.discard(member)
            self._finished[member] = tickets
        if over:
            self._discard(tickets)
        else:
            self._decide()

    def dropped(self, member: Member) -> None:
        """It will not become visible. What is stored already is no reason not to commit the others."""
        with self._lock:
            if self._over:
                return
            self._waiting.discard(member)
            lost = member.reason is not None and member.reason.lost
            self._over = lost
        if lost:
            self._give_up()
        else:
            self._decide()

    def committed(self) -> None:
        for member in self._finished:
            member.committed()

    def failed(self, error: ObjectCacheError) -> None:
        for member in self._finished:
            member.commit_failed(error)

    def _decide(self) -> None:
        with self._lock:
            if self._over or self._waiting:
                return
            self._over = True
        if not self._finished:
            return
        begun = [member for member in self._finished if member.begin_commit()]
        if len(begun) == len(self._finished):
            self._commit(self)
            return
        for member in begun:
            member.commit_failed(ObjectCacheError("another part of the step was dropped"))
        for member in self._finished:
            member.drop(Reason.PARTNER)
        self._discard(self.tickets)

    def _give_up(self) -> None:
        with self._lock:
            others = [*self._waiting, *self._finished]
        for other in others:
            other.drop(Reason.PARTNER)
        if self._finished:
            self._discard(self.tickets)
