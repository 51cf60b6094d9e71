"""Bytes against a limit: what a store holds, and what running uploads have been promised."""

from __future__ import annotations

from threading import RLock

from objectcache.errors import ConfigError, StoreError, StoreFullError
from objectcache.stores.base import StoreUsage


class ByteBudget:
    """Counts bytes held and bytes reserved; refuses to pass `limit_bytes`. Thread-safe.

    `lock` may be held around a change and its `settle`, so that nobody sees one without the other.
    """

    def __init__(self, limit_bytes: int) -> None:
        if limit_bytes < 0:
            raise ConfigError(f"limit_bytes must not be negative, got {limit_bytes}")
        self.lock = RLock()
        self.limit_bytes = limit_bytes
        self._held_bytes = 0
        self._reserved_bytes = 0

    def reserve(self, count_bytes: int) -> None:
        """Promise room for `count_bytes` more. Raises StoreFullError when the limit would be passed."""
        if count_bytes < 0:
            raise StoreError(f"{count_bytes} bytes cannot be reserved")
        with self.lock:
            used_bytes = self._held_bytes + self._reserved_bytes
            if used_bytes + count_bytes > self.limit_bytes:
                raise StoreFullError(
                    f"no room for {count_bytes} bytes: {used_bytes} of at most {self.limit_bytes} are in use"
                )
            self._reserved_bytes += count_bytes

    def settle(self, reserved_bytes: int, held_delta_bytes: int = 0) -> None:
        """A reservation ends, and what is held has changed by `held_delta_bytes`."""
        with self.lock:
            self._reserved_bytes -= reserved_bytes
            self._held_bytes += held_delta_bytes

    def usage(self) -> StoreUsage:
        with self.lock:
            # Below 0 only while deletes of what another process stored are ahead of the scan that finds it.
            return StoreUsage(max(0, self._held_bytes + self._reserved_bytes), self.limit_bytes)
