"""The cache as a worker has it: opened with its first use, in a thread; left alone for a while when it fails."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import perf_counter

from objectcache.cache.base import KVCache
from objectcache.client.breaker import Breaker
from objectcache.connectors.vllm.worker.counters import Outcome
from objectcache.errors import (
    DeliveryTimeoutError,
    GatewayUnavailableError,
    IntegrityError,
    NamespaceMismatchError,
    ObjectCacheError,
    StoreUnavailableError,
)


def outcome_of(error: ObjectCacheError) -> Outcome:
    """What to call it."""
    if isinstance(error, NamespaceMismatchError):  # nobody has stored anything of it yet
        return Outcome.NOT_STORED
    if isinstance(error, DeliveryTimeoutError):
        return Outcome.LATE
    if isinstance(error, IntegrityError):
        return Outcome.DAMAGED
    if isinstance(error, GatewayUnavailableError | StoreUnavailableError):
        return Outcome.UNAVAILABLE
    return Outcome.FAILED


class CacheAccess:
    """Thread-safe. One failure to answer, or to deliver in time, is enough to leave the storage side alone: a request
    has then waited for as long as any may."""

    def __init__(self, make: Callable[[], KVCache], cache: KVCache | None = None) -> None:
        """A given `cache` stays the caller's to close."""
        self._make = make
        self._cache = cache
        self._mine = cache is None
        self._opening = threading.Lock()
        self._lock = threading.Lock()
        self._asking, self._delivering = Breaker(1), Breaker(1)
        self._closed = False

    def get(self) -> KVCache:
        """Raises ObjectCacheError."""
        with self._opening:
            if self._closed:
                raise ObjectCacheError("the connector is closed")
            if self._cache is None:
                self._cache = self._make()
            return self._cache

    @property
    def left_alone(self) -> bool:
        return self._asking.is_open or self._delivering.is_open

    def may_ask(self) -> bool:
        """Whether a look-up may try. After a pause True once."""
        with self._lock:
            return self._asking.allows(perf_counter())

    def may_deliver(self) -> bool:
        """The same of a transfer."""
        with self._lock:
            return self._delivering.allows(perf_counter())

    def answered(self) -> None:
        with self._lock:
            self._asking.succeeded()

    def delivered(self) -> None:
        with self._lock:
            self._delivering.succeeded()

    def failed(self, outcome: Outcome, *, delivering: bool = False) -> None:
        """Only what says that others would fail as well counts."""
        if outcome in (Outcome.UNAVAILABLE, Outcome.LATE):
            with self._lock:
                (self._delivering if delivering else self._asking).failed(perf_counter())

    def close(self) -> None:
        with self._opening:
            self._closed = True
            cache, self._cache = self._cache, None
        if cache is not None and self._mine:
            cache.close()
