"""The host memory of layers on their way, bounded."""

from __future__ import annotations

import threading
import time

from objectcache.buffers import Buffer, BufferPool
from objectcache.errors import BufferPoolExhaustedError


class Staging:
    """A pool, what of it is in use, and waiting for room by those who may. Thread-safe."""

    def __init__(self, size_bytes: int) -> None:
        self.pool = BufferPool(size_bytes)
        self._changed = threading.Condition(threading.Lock())
        self._used_bytes = self._peak_bytes = 0

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
        with self._changed:
            while True:
                try:
                    staged = self.pool.allocate(size_bytes)
                    break
                except BufferPoolExhaustedError:
                    left_s = deadline_s - time.monotonic() if wait_s else 0.0
                    if left_s <= 0 or size_bytes > self.pool.size_bytes:
                        raise
                    self._changed.wait(left_s)
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
