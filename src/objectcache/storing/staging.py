"""The host memory of layers on their way, bounded."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable

from objectcache.buffers import Buffer, BufferPool
from objectcache.errors import BufferPoolExhaustedError

_REAP_S = 0.005


class Staging:
    """A pool, what of it is in use, and waiting for room by those who may. Thread-safe.

    `reap` is called where there is no room: it may give some back. Layers have few sizes: what came back is kept by
    size, and handed out again as it is, which is a fraction of an allocation.
    """

    def __init__(self, size_bytes: int) -> None:
        self.pool = BufferPool(size_bytes)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._spare: defaultdict[int, list[Buffer]] = defaultdict(list)
        self._used: set[Buffer] = set()
        self._used_bytes = self._peak_bytes = 0
        self._closed = False
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
        reaped = False
        while True:
            with self._lock:
                try:
                    spare = self._spare[size_bytes]
                    staged = spare.pop() if spare else self._allocate(size_bytes)
                except BufferPoolExhaustedError:
                    if reaped:
                        left_s = deadline_s - time.monotonic() if wait_s else 0.0
                        if left_s <= 0 or size_bytes > self.pool.size_bytes:
                            raise
                        self._changed.wait(min(left_s, _REAP_S))
                else:
                    self._used.add(staged)
                    used_bytes = self._used_bytes = self._used_bytes + staged.size_bytes
                    if used_bytes > self._peak_bytes:
                        self._peak_bytes = used_bytes
                    return staged
            self.reap()
            reaped = True

    def _allocate(self, size_bytes: int) -> Buffer:
        try:
            return self.pool.allocate(size_bytes)
        except BufferPoolExhaustedError:
            self._release_spare()
            return self.pool.allocate(size_bytes)

    def _release_spare(self) -> None:
        for spare in self._spare.values():
            for staged in spare:
                self.pool.release(staged)
        self._spare.clear()

    def give_back(self, staged: Buffer) -> None:
        """Nothing reads or writes it any more. Raises KeyError the second time: two layers must not share memory."""
        with self._lock:
            self._used.remove(staged)
            if self._closed:
                self.pool.release(staged)
            else:
                self._spare[len(staged.view)].append(staged)
            self._used_bytes -= staged.size_bytes
            self._changed.notify_all()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._release_spare()
            self.pool.close()
            self._changed.notify_all()
