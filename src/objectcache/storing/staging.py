"""The host memory of layers on their way, bounded."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from objectcache.buffers import Buffer, BufferPool
from objectcache.errors import BufferPoolExhaustedError

_REAP_S = 0.005


class Staging:
    """A pool, what of it is in use, and waiting for room by those who may. Thread-safe.

    `reap` is called before memory is taken: it may give some back.
    """

    def __init__(self, size_bytes: int) -> None:
        self.pool = BufferPool(size_bytes)
        self._changed = threading.Condition(threading.Lock())
        self._used_bytes = self._peak_bytes = 0
        self.reap: Callable[[], None] = lambda: None

    @property
    def used_bytes(self) -> int:
        return self._used_bytes

    @property
    def peak_bytes(self) -> int:
        """The most that was ever in use."""
        return self._peak_bytes

    def take(self, size_bytes: int, wait_s: float = 0.0) -> Buffer:
        """Raises BufferPoolExhaustedError when there is no room, after `wait_s` if it could ever be; when closed
        ObjectCacheError.
        """
        deadline_s = time.monotonic() + wait_s if wait_s else 0.0
        while True:
            self.reap()
            with self._changed:
                try:
                    staged = self.pool.allocate(size_bytes)
                except BufferPoolExhaustedError:
                    left_s = deadline_s - time.monotonic() if wait_s else 0.0
                    if left_s <= 0 or size_bytes > self.pool.size_bytes:
                        raise
                    self._changed.wait(min(left_s, _REAP_S))
                else:
                    self._used_bytes += staged.size_bytes
                    self._peak_bytes = max(self._peak_bytes, self._used_bytes)
                    return staged

    def give_back(self, staged: Buffer) -> None:
        """Nothing reads or writes it any more."""
        with self._changed:
            self.pool.release(staged)
            self._used_bytes -= staged.size_bytes
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self.pool.close()
            self._changed.notify_all()
