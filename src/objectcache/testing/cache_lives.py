"""What every cache must do, as pytest tests: cancelling and closing. Part of `objectcache.testing.caches`."""

from __future__ import annotations

import time
from abc import abstractmethod

import pytest

from objectcache.cache import KVCache, Match, Retrieval
from objectcache.errors import BufferPoolExhaustedError, ObjectCacheError
from objectcache.testing.synthetic import check_delivery, flat_layout, new_namespace, prompt, store_parts

PATIENCE_S = 30.0
LARGE = flat_layout(8, 1 << 18)
CHUNKS = 16
LARGE_BYTES = 8 * 16 << 18


class LifeContract:
    """Cancelling and closing, of caches that `open_cache` opens."""

    @abstractmethod
    def open_cache(self, *, buffer_bytes: int = 1 << 30) -> KVCache: ...

    def test_memory_of_cancelled_deliveries_comes_back_and_is_never_written_late(self) -> None:
        """The pool holds two: while one is read, others come and go beside it, at any moment of their lives."""
        with self.open_cache(buffer_bytes=2 * LARGE_BYTES) as cache:
            match = _stored(cache)
            with cache.retrieve(match) as kept:
                check_delivery(kept, match)
                for turn in range(16):
                    with _retrieve_when_free(cache, match) as cancelled:
                        if turn % 4:
                            cancelled.wait(2 * (turn % 4))
                check_delivery(kept, match)
            for _ in range(3):
                with _retrieve_when_free(cache, match) as retrieval:
                    check_delivery(retrieval, match)

    def test_a_cache_can_be_closed_while_deliveries_are_under_way(self) -> None:
        cache = self.open_cache()
        match = _stored(cache)
        retrievals = [cache.retrieve(match) for _ in range(4)]
        cache.close()
        begin_s = time.monotonic()
        for retrieval in retrievals:
            try:
                check_delivery(retrieval, match)  # it may have been fast
            except ObjectCacheError:
                assert not retrieval.complete
            retrieval.close()
        assert time.monotonic() - begin_s < PATIENCE_S / 2, "waits went on to their deadlines"

    def test_views_outlive_the_cache_but_not_their_retrieval(self) -> None:
        cache = self.open_cache()
        match = _stored(cache)
        retrieval = cache.retrieve(match)
        check_delivery(retrieval, match)
        cache.close()
        check_delivery(retrieval, match)
        retrieval.close()
        with pytest.raises(ObjectCacheError):
            retrieval.view(0)

    def test_closing_twice_is_harmless_and_a_closed_cache_delivers_nothing(self) -> None:
        cache = self.open_cache()
        match = _stored(cache)
        cache.close()
        cache.close()
        with self.open_cache() as other:
            with pytest.raises(ObjectCacheError):
                cache.retrieve(match)
            with other.retrieve(other.match(match.namespace, prompt(match.namespace, CHUNKS))) as retrieval:
                check_delivery(retrieval, match)


def _stored(cache: KVCache) -> Match:
    namespace = new_namespace(LARGE)
    chain = prompt(namespace, CHUNKS)
    store_parts(cache, namespace, chain, cuts=[5])
    return cache.match(namespace, chain)


def _retrieve_when_free(cache: KVCache, match: Match) -> Retrieval:
    """Cancelled deliveries keep their memory until nothing writes it: soon, not at once."""
    until_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            return cache.retrieve(match)
        except BufferPoolExhaustedError:
            if time.monotonic() > until_s:
                raise
            time.sleep(0.005)
