"""When a destination may be used again: after its retrieval is closed and nothing writes it any more."""

from __future__ import annotations

import threading
from collections.abc import Callable

from objectcache.buffers import Buffer, BufferPool


class Destination:
    """One buffer, from its allocation until it may go back to the pool. Thread-safe."""

    def __init__(self, pool: BufferPool, buffer: Buffer) -> None:
        self.buffer = buffer
        self._pool = pool
        self._lock = threading.Lock()
        self._fenced = threading.Event()
        self._fenced.set()  # nobody has been told of it yet
        self._closed = False
        self._released = False
        self._cancel: Callable[[], None] | None = None

    def shrink(self, size_bytes: int) -> None:
        """So much of it suffices. Nothing has written, or will write, what is behind that."""
        self._pool.shrink(self.buffer, size_bytes)

    def begin(self, cancel: Callable[[], None]) -> None:
        """Something may write it from here on; `cancel()` makes it stop, and leads to `fence`."""
        with self._lock:
            self._fenced.clear()
            self._cancel = cancel

    @property
    def fenced(self) -> bool:
        return self._fenced.is_set()

    def wait_fenced(self, timeout_s: float) -> bool:
        return self._fenced.wait(timeout_s)

    def fence(self) -> None:
        """Nothing writes it any more."""
        self._fenced.set()
        self._release()

    def close(self, complete: bool) -> None:
        """Nobody reads it any more. `complete`: all has landed, so nothing will be written either."""
        with self._lock:
            self._closed = True
            cancel = self._cancel
        if complete:
            self._fenced.set()
        if not self.fenced and cancel is not None:
            self._pool.quarantine(self.buffer)
            cancel()
        self._release()

    def _release(self) -> None:
        with self._lock:
            if self._released or not (self._closed and self.fenced):
                return
            self._released = True
        self._pool.release(self.buffer)
