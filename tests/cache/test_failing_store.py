"""In-process retrieval from stores that stall, fail or lose what they had."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from objectcache.cache import Match, RetrieveOptions
from objectcache.cache.core import CacheCore
from objectcache.cache.local import LocalCache
from objectcache.errors import (
    BufferPoolExhaustedError,
    DeliveryTimeoutError,
    KeyNotFoundError,
    StoreUnavailableError,
)
from objectcache.names import SEGMENT_PREFIX
from objectcache.stores import FileStore, ObjectReader
from objectcache.testing.synthetic import (
    check_delivery,
    check_layer,
    flat_layout,
    new_namespace,
    prompt,
    retrieve_and_check,
    store_parts,
)
from tests.gateway.process import eventually

LAYERS, CHUNKS, SLICE_BYTES = 6, 8, 32 << 10
TOTAL_BYTES = LAYERS * CHUNKS * SLICE_BYTES
FAULTY_AT_BYTES = 3 * CHUNKS * SLICE_BYTES  # about the middle of a segment


class FaultySwitch:
    """What happens to reads beyond the middle of an object: nothing, or a stall, or an error."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.go_on.set()
        self.stalled = threading.Event()
        self.error: StoreUnavailableError | None = None

    def strike(self, offset: int, out: memoryview) -> None:
        if offset < FAULTY_AT_BYTES:
            return
        if self.error is not None:
            raise self.error
        if not self.go_on.is_set():
            out[: len(out) // 2] = b"\xee" * (len(out) // 2)
            self.stalled.set()
            self.go_on.wait(30)
            if self.error is not None:
                raise self.error


class FaultyReader(ObjectReader):
    def __init__(self, real: ObjectReader, switch: FaultySwitch) -> None:
        self.info, self._real, self._switch = real.info, real, switch

    def read_into(self, offset: int, out: memoryview) -> None:
        self._switch.strike(offset, out)
        self._real.read_into(offset, out)

    def close(self) -> None:
        self._real.close()


class StalledStore(FileStore):
    """A file store behind a network that may hang or break."""

    def __init__(self, root: Path, switch: FaultySwitch) -> None:
        super().__init__(root)
        self._switch = switch

    def open(self, name: str, *, size_bytes: int | None = None) -> ObjectReader:
        real = super().open(name)
        return FaultyReader(real, self._switch) if name.startswith(SEGMENT_PREFIX) else real


@pytest.fixture
def switch() -> FaultySwitch:
    return FaultySwitch()


@pytest.fixture
def cache(tmp_path: Path, switch: FaultySwitch) -> Iterator[LocalCache]:
    """Its pool holds just one delivery."""
    core = CacheCore.open(StalledStore(tmp_path / "objects", switch), tmp_path / "catalog")
    with LocalCache(core, buffer_bytes=TOTAL_BYTES) as cache:
        yield cache
        switch.go_on.set()


@pytest.fixture
def match(cache: LocalCache) -> Match:
    namespace = new_namespace(flat_layout(LAYERS, SLICE_BYTES))
    store_parts(cache, namespace, prompt(namespace, CHUNKS))
    return cache.match(namespace, prompt(namespace, CHUNKS))


def test_a_stalled_read_is_late_and_its_memory_nobodys_until_it_ends(
    cache: LocalCache, match: Match, switch: FaultySwitch
) -> None:
    switch.go_on.clear()
    retrieval = cache.retrieve(match, options=RetrieveOptions(layers_per_unit=1, deadline_s=0.3))
    retrieval.wait(0)
    assert switch.stalled.wait(30)
    with pytest.raises(DeliveryTimeoutError):
        retrieval.wait(LAYERS - 1)
    check_layer(retrieval, match.parts, 0)
    begin_s = time.monotonic()
    retrieval.close()
    assert time.monotonic() - begin_s < 5.0
    with pytest.raises(BufferPoolExhaustedError):
        cache.pool.allocate(TOTAL_BYTES)
    switch.go_on.set()
    eventually(lambda: not cache.pool.usage().quarantined_bytes, "the read has ended")
    buffer = cache.pool.allocate(TOTAL_BYTES)
    content = np.random.default_rng(1).bytes(TOTAL_BYTES)
    buffer.view[:] = content
    assert cache.match(match.namespace, prompt(match.namespace, CHUNKS)).tokens
    assert bytes(buffer.view) == content
    cache.pool.release(buffer)
    retrieve_and_check(cache, match.namespace, prompt(match.namespace, CHUNKS))


def test_a_store_that_breaks_is_not_a_segment_that_is_damaged(
    cache: LocalCache, match: Match, switch: FaultySwitch
) -> None:
    switch.go_on.clear()
    retrieval = cache.retrieve(match)
    retrieval.wait(0)
    check_layer(retrieval, match.parts, 0)
    switch.error = StoreUnavailableError("broken")
    switch.go_on.set()
    with pytest.raises(StoreUnavailableError):
        retrieval.wait(LAYERS - 1)
    retrieval.close()
    switch.error = None
    eventually(lambda: not cache.pool.usage().quarantined_bytes, "the reads under way have ended")
    assert retrieve_and_check(cache, match.namespace, prompt(match.namespace, CHUNKS)).tokens == match.tokens
    assert cache.core.counters.forgotten == 0


def test_segments_deleted_under_a_retrieval_are_delivered_to_the_end(
    cache: LocalCache, match: Match, switch: FaultySwitch
) -> None:
    switch.go_on.clear()
    with cache.retrieve(match) as retrieval:
        assert switch.stalled.wait(30)
        assert cache.core.evict(1) == 0, "it is pinned by the lease"
        cache.release(match)
        assert cache.core.evict(1) > TOTAL_BYTES
        assert cache.match(match.namespace, prompt(match.namespace, CHUNKS)).tokens == 0
        switch.go_on.set()
        check_delivery(retrieval, match)


def test_a_segment_that_vanished_is_absent_once_and_then_a_miss(cache: LocalCache, match: Match) -> None:
    (segment,) = cache.core.store.list(SEGMENT_PREFIX)
    cache.core.store.delete(segment.name)
    with pytest.raises(KeyNotFoundError):
        cache.retrieve(match)
    assert cache.match(match.namespace, prompt(match.namespace, CHUNKS)).tokens == 0
    assert cache.core.counters.forgotten == 1
    store_parts(cache, match.namespace, prompt(match.namespace, CHUNKS))
    assert retrieve_and_check(cache, match.namespace, prompt(match.namespace, CHUNKS)).tokens == match.tokens


def test_a_hundred_retrievals_leave_nothing_behind(cache: LocalCache, match: Match, switch: FaultySwitch) -> None:
    def held() -> tuple[int, int, int]:
        usage = cache.pool.usage()
        return len(os.listdir("/proc/self/fd")), threading.active_count(), usage.in_use_bytes + usage.quarantined_bytes

    retrieve_and_check(cache, match.namespace, prompt(match.namespace, CHUNKS))
    eventually(lambda: held()[2] == 0, "memory comes back")
    before = held()
    for turn in range(100):
        switch.error = StoreUnavailableError("broken") if turn % 5 == 4 else None
        try:
            with cache.retrieve(match) as retrieval:
                if turn % 3:
                    retrieval.wait(turn % LAYERS)
        except (StoreUnavailableError, BufferPoolExhaustedError):
            continue
    eventually(lambda: held()[0] <= before[0] and held()[1:] == before[1:], f"as before: {before}")
