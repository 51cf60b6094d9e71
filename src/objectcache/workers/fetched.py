"""What a data worker fetched into the read cache, told piece by piece."""

from __future__ import annotations

import threading

from objectcache.stores import ReadCache, Store


class Fetched:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told: dict[str, int] = {}

    def since_last(self, store: Store) -> int:
        """Bytes that were read from the store behind the cache since this was asked last; 0 where there is no cache."""
        if not isinstance(store, ReadCache):
            return 0
        with self._lock:
            fetched_bytes = store.counters().fetched_bytes
            before_bytes = self._told.get(store.url, 0)
            self._told[store.url] = fetched_bytes
        # Another store of that URL, opened since, counts from 0 on.
        return fetched_bytes - before_bytes if fetched_bytes >= before_bytes else fetched_bytes
