"""One thread for what a connector need not wait for, in order."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from objectcache.cores import leave_bound_core

log = logging.getLogger(__name__)


class BackgroundThread:
    """Runs jobs one after the other. What they raise is logged. The thread starts with the first job."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._jobs: deque[Callable[[], None]] = deque()
        self._busy = False
        self._closing = False
        self._thread: threading.Thread | None = None

    def submit(self, job: Callable[[], None]) -> bool:
        """Queue `job`. False, and not queued, when closed."""
        with self._changed:
            if self._closing:
                return False
            self._jobs.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="objectcache-connector", daemon=True)
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

    def _run(self) -> None:
        leave_bound_core()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._closing)
                if not self._jobs:
                    return
                job = self._jobs.popleft()
                self._busy = True
            try:
                job()
            except Exception:
                log.exception("something that a connector left to its background thread")
            finally:
                del job  # with it what it holds
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()
