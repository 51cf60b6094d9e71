"""One thread that does a connector's storing, in order, with a bound on what waits for it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable


class BackgroundThread:
    """Runs jobs one after the other. Jobs must not raise. The thread starts with the first job."""

    def __init__(self, max_pending_bytes: int) -> None:
        self._max_pending_bytes = max_pending_bytes
        self._changed = threading.Condition()
        self._jobs: deque[tuple[Callable[[], None], int]] = deque()
        self._pending_bytes = 0
        self._busy = False
        self._closing = False
        self._thread: threading.Thread | None = None

    def submit(self, job: Callable[[], None], num_bytes: int = 0, *, wait: bool = False) -> bool:
        """Queue `job`, which keeps `num_bytes` of memory alive until it is done.

        False, and not queued, when closed, or when that is too much beside what is pending (with `wait`: blocks until
        it is not). A job alone, or one without bytes, never is.
        """
        with self._changed:
            while not self._closing and num_bytes and self._pending_bytes and num_bytes > self._free_bytes:
                if not wait:
                    return False
                self._changed.wait()
            if self._closing:
                return False
            self._jobs.append((job, num_bytes))
            self._pending_bytes += num_bytes
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="objectcache-store", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return True

    def flush(self, timeout_s: float) -> bool:
        """Whether nothing is left to do, within `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._jobs and not self._busy, timeout_s)

    def close(self, timeout_s: float) -> None:
        """Do what is queued, for at most `timeout_s`; what is left then is dropped."""
        self.flush(timeout_s)
        with self._changed:
            self._closing = True
            self._jobs.clear()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout=max(1.0, timeout_s))

    @property
    def _free_bytes(self) -> int:
        return self._max_pending_bytes - self._pending_bytes

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._closing)
                if not self._jobs:
                    return
                job, num_bytes = self._jobs.popleft()
                self._busy = True
            try:
                job()
            finally:
                del job  # with it the tensors it holds
                with self._changed:
                    self._busy = False
                    self._pending_bytes -= num_bytes
                    self._changed.notify_all()
