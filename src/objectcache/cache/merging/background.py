"""Merging beside everything else, in a thread of the process that uses the cache."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial

from objectcache.cache.core import CacheCore
from objectcache.cache.merging.merger import Merger
from objectcache.cache.merging.policy import MergeLimits
from objectcache.errors import ObjectCacheError
from objectcache.joining import JoinStoppedError, Pace

log = logging.getLogger(__name__)

INTERVAL_S = 2.0
"""How often it is looked whether there is something to merge."""
PAUSE_S = 60.0
"""After a failure, and when there was no room."""


class BackgroundMerging:
    """At most `bytes_s` are rewritten a second. `is_busy()` says whether deliveries are under way."""

    def __init__(
        self, core: CacheCore, bytes_s: float, *, is_busy: Callable[[], bool], interval_s: float = INTERVAL_S
    ) -> None:
        self._core, self._merger = core, Merger(core, MergeLimits.at_rate(bytes_s))
        self._interval_s = interval_s
        self._stopped = threading.Event()
        self._new_pace = partial(Pace, bytes_s, is_busy=is_busy, stopped=self._stopped)
        self._thread = threading.Thread(target=self._run, name="merge", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        wait_s = self._interval_s
        while not self._stopped.wait(wait_s):
            try:
                wait_s = self._interval_s if self._merge() else PAUSE_S
            except JoinStoppedError:
                return
            except ObjectCacheError as error:
                self._core.merges.failed += 1
                log.warning("merging pauses: %s", error)
                wait_s = PAUSE_S

    def _merge(self) -> bool:
        """Whether there was no reason to pause."""
        if not self._core.fragments:
            return True
        findings = self._merger.find()
        self._merger.drop_duplicates(findings)
        unlucky = self._core.merges.unlucky
        for run in findings.runs:
            self._merger.merge(run, self._new_pace())
            if self._core.merges.unlucky > unlucky:
                return False
        return True

    def stop(self) -> None:
        """Return when nothing is being merged any more."""
        self._stopped.set()
        self._thread.join()
