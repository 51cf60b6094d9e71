"""Leases: what a match pins for a short while. Pure: time is passed in."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from objectcache.descriptor import ID_BYTES
from objectcache.errors import LeaseExpiredError

DEFAULT_TTL_S = 60.0
_MOVES_KEPT = 4096
"""Replaced segments that are remembered, for whoever found them just before."""


@dataclass(frozen=True, slots=True)
class _Held:
    segment_ids: tuple[int, ...]
    until_s: float


class LeaseTable:
    """Not thread-safe; its owner locks. `now_s` is any clock that does not go back."""

    def __init__(self, ttl_s: float = DEFAULT_TTL_S) -> None:
        self.ttl_s = ttl_s
        self._held: dict[bytes, _Held] = {}  # in order of expiry, since all live equally long
        self._pins: Counter[int] = Counter()
        self._moved: dict[int, int] = {}

    def grant(self, segment_ids: Iterable[int], now_s: float) -> bytes:
        """A new lease, 16 random bytes, that pins `segment_ids`."""
        self.expire(now_s)
        lease = secrets.token_bytes(ID_BYTES)
        ids = {self._moved.get(id, id) for id in segment_ids}
        held = _Held(tuple(ids), now_s + self.ttl_s)
        self._held[lease] = held
        self._pin(held)
        return lease

    def check(self, lease: bytes, now_s: float) -> None:
        """Raises LeaseExpiredError unless `lease` is held at `now_s`."""
        self.expire(now_s)
        if lease not in self._held:
            raise LeaseExpiredError(f"lease {lease.hex()} is unknown, or older than {self.ttl_s:g} s: match again")

    def release(self, lease: bytes) -> None:
        """Give it back; harmless when it is gone."""
        held = self._held.pop(lease, None)
        if held is not None:
            self._unpin(held)

    def expire(self, now_s: float) -> None:
        while self._held:
            lease, held = next(iter(self._held.items()))
            if held.until_s > now_s:
                return
            del self._held[lease]
            self._unpin(held)

    def move(self, old_ids: Iterable[int], new_id: int) -> None:
        """What was in the segments `old_ids` is in `new_id` now: who pins any of them pins that instead."""
        old = frozenset(old_ids)
        for lease, held in self._held.items():
            if old.intersection(held.segment_ids):
                self._unpin(held)
                ids = (*(id for id in held.segment_ids if id not in old and id != new_id), new_id)
                self._held[lease] = _Held(ids, held.until_s)
                self._pin(self._held[lease])
        self._moved = {id: new_id if to in old else to for id, to in self._moved.items()}
        self._moved |= dict.fromkeys(old, new_id)
        while len(self._moved) > _MOVES_KEPT:
            del self._moved[next(iter(self._moved))]

    def _pin(self, held: _Held) -> None:
        self._pins.update(held.segment_ids)

    def _unpin(self, held: _Held) -> None:
        for segment in held.segment_ids:
            self._pins[segment] -= 1
            if not self._pins[segment]:
                del self._pins[segment]

    @property
    def pinned(self) -> frozenset[int]:
        return frozenset(self._pins)

    def __len__(self) -> int:
        return len(self._held)
