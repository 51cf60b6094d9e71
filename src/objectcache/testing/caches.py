"""What every cache must do, as pytest tests: subclass `CacheContract`, and say how to open a cache.

class TestMyCache(CacheContract):
    def open_cache(self, *, buffer_bytes: int = 1 << 30) -> KVCache:
        return MyCache(...)

    def restart(self) -> None:
        my_server.restart()
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import pytest

from objectcache.cache import KVCache
from objectcache.testing.cache_deliveries import DeliveryContract
from objectcache.testing.cache_lives import LifeContract
from objectcache.testing.cache_matching import MatchingContract
from objectcache.testing.cache_one_trip import OneTripContract
from objectcache.testing.cache_storing import StoringContract


class CacheContract(StoringContract, MatchingContract, DeliveryContract, OneTripContract, LifeContract, ABC):
    """The contract of `objectcache.cache.base`. Every test has namespaces of its own: caches may share data."""

    @abstractmethod
    def open_cache(self, *, buffer_bytes: int = 1 << 30) -> KVCache:
        """A cache over the same data as any opened before in this test; closed by the caller.

        `buffer_bytes` bounds the destinations of its retrievals.
        """

    @abstractmethod
    def restart(self) -> None:
        """What keeps the data ends and begins anew. Caches that are open are closed by the caller before."""

    @pytest.fixture
    def cache(self) -> Iterator[KVCache]:
        with self.open_cache() as cache:
            yield cache
