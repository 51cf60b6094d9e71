"""Joining segments in a data worker, beside what it delivers."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

from objectcache.joining import Joined, JoinOrder, Pace, join
from objectcache.stores import Store
from objectcache.workers.channel import Message


class Joins:
    """Thread-safe."""

    def __init__(self, is_busy: Callable[[], bool]) -> None:
        """`is_busy()` says whether deliveries are under way, to which joining gives way."""
        self._is_busy = is_busy
        self._stopped = threading.Event()

    def run(self, store: Store, message: Message) -> Joined:
        """`order` at `bytes_s` at most (0: as fast as it goes). Raises as `join`, JoinStoppedError after `stop`."""
        pace = Pace(message["bytes_s"] or math.inf, is_busy=self._is_busy, stopped=self._stopped)
        return join(store, JoinOrder.from_wire(message["order"]), pace)

    def stop(self) -> None:
        """End what runs, and what would follow: the gateway drains."""
        self._stopped.set()
