"""Reads: how many requests, how many at once, and what was read ahead."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from objectcache.errors import ObjectChangedError, ObjectNotFoundError, StoreError
from objectcache.stores.s3 import S3Store
from tests.fault_proxy import FaultProxy
from tests.services import S3Service
from tests.stores_s3.conftest import PART_BYTES, OpenStore

PARTS = 6
DATA = b"".join(b"%015d\n" % number for number in range(PARTS * PART_BYTES // 16))


@pytest.fixture
def far(proxy: FaultProxy, bucket: str, store: S3Store, open_s3: OpenStore) -> S3Store:
    """A store behind the proxy, with DATA as "a"."""
    with store.upload("a") as upload:
        upload.write(DATA)
        upload.publish()
    return open_s3(bucket, proxy.endpoint)


def _gets(store: S3Store) -> int:
    return store.request_counts().get("get", 0)


def _until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert condition()


def test_requests_of_each_call(service: S3Service, bucket: str, open_s3: OpenStore) -> None:
    store = open_s3(bucket, service.endpoint)
    assert store.request_counts() == {}
    store.put("a", b"0123456789")
    store.put("b", b"", if_absent=True)
    assert store.request_counts() == {"put": 2}
    with store.open("a") as reader:
        assert store.request_counts() == {"put": 2, "head": 1}
        reader.read(0, 10)
        reader.read(3, 0)
    with store.open("a", size_bytes=10) as reader:
        reader.read(2, 3)
    assert store.get("a") == b"0123456789"
    assert store.request_counts() == {"put": 2, "head": 1, "get": 3}
    list(store.list())
    list(store.list_prefixes("a/"))
    list(store.list("a//"))
    store.delete("a")
    assert store.request_counts() == {"put": 2, "head": 1, "get": 3, "list": 2, "delete": 1}


def test_a_listing_asks_for_a_page_at_a_time(
    rgw: S3Service, proxy: FaultProxy, bucket: str, open_s3: OpenStore
) -> None:
    store = open_s3(bucket, proxy.endpoint)
    for number in range(1010):
        store.put(f"{number:04d}", b"")
    proxy.heal()
    listing = store.list()
    assert next(listing).name == "0000"
    assert len(proxy.requests) == 1
    assert len(list(listing)) == 1009
    assert len(proxy.requests) == 2
    proxy.heal()
    assert [info.name for info in store.list("101")] == []
    assert [info.name for info in store.list("100", start_after="1008")] == ["1009"]
    assert len(proxy.requests) == 2


def test_a_large_read_is_several_at_once(far: S3Store, proxy: FaultProxy) -> None:
    with far.open("a") as reader:
        proxy.slow(0.3)
        out = bytearray(len(DATA) - 2)
        reader.read_into(1, memoryview(out).cast("H"))
        assert bytes(out) == DATA[1:-1]
    assert _gets(far) == PARTS
    assert proxy.most_at_once == PARTS


def test_a_large_object_is_got_in_parts(far: S3Store) -> None:
    assert far.get("a") == DATA


def test_what_was_prefetched_is_not_asked_for_again(far: S3Store) -> None:
    with far.open("a", size_bytes=len(DATA)) as reader:
        reader.prefetch(1000, 3 * PART_BYTES)
        _until(lambda: _gets(far) == 3)
        reader.prefetch(2000, PART_BYTES)
        for start, stop in ((1000, 5000), (5000, 2 * PART_BYTES), (2 * PART_BYTES, 3 * PART_BYTES + 1000)):
            assert reader.read(start, stop - start) == DATA[start:stop]
        assert _gets(far) == 3
        # Picked up, and no longer held.
        assert reader.read(1000, 10) == DATA[1000:1010]
        assert _gets(far) == 4


def test_a_read_takes_what_is_there_and_asks_for_the_rest(far: S3Store) -> None:
    with far.open("a") as reader:
        for offset in (PART_BYTES, 3 * PART_BYTES):
            reader.prefetch(offset, 1000)
        _until(lambda: _gets(far) == 2)
        assert reader.read(0, len(DATA)) == DATA
        assert _gets(far) == 2 + 1 + 2 + 3


def test_reading_ahead_is_bounded_and_given_back(
    service: S3Service, bucket: str, store: S3Store, open_s3: OpenStore
) -> None:
    with store.upload("a") as upload:
        upload.write(DATA)
        upload.publish()
    small = open_s3(bucket, service.endpoint, prefetch_bytes=2 * PART_BYTES)
    for _ in range(3):
        with small.open("a") as reader, small.open("a") as other:
            before = _gets(small)
            reader.prefetch(0, len(DATA))
            other.prefetch(0, len(DATA))
            _until(lambda before=before: _gets(small) == before + 2)  # type: ignore[misc]
            assert other.read(0, 10) == DATA[:10]
            assert _gets(small) == before + 3
        _until(lambda: small._fetching.budget.free_bytes == 2 * PART_BYTES)


def test_a_prefetch_does_not_wait_and_never_fails(far: S3Store, proxy: FaultProxy) -> None:
    with far.open("a") as reader:
        proxy.hang()
        begun_s = time.monotonic()
        reader.prefetch(0, 100)
        reader.prefetch(-5, 3)
        reader.prefetch(len(DATA), 10)
        reader.prefetch(1 << 60, 1 << 60)
        assert time.monotonic() - begun_s < 1
    reader.prefetch(0, 100)
    proxy.heal()
    with far.open("a") as reader:
        proxy.answer(403)
        reader.prefetch(0, 100)
        _until(lambda: any("GET" in line for line in proxy.requests))
        proxy.heal()
        assert reader.read(0, 100) == DATA[:100]
    far.close()
    reader.prefetch(0, 100)
    with pytest.raises(StoreError):
        reader.read(0, 100)


def test_an_object_that_is_replaced_or_deleted_while_open(store: S3Store) -> None:
    for size_bytes in (None, 5):
        store.put("a", b"first")
        with store.open("a", size_bytes=size_bytes) as reader:
            assert reader.read(0, 2) == b"fi"
            store.put("a", b"again")
            with pytest.raises(ObjectChangedError):
                reader.read(2, 3)
            store.delete("a")
            with pytest.raises(ObjectNotFoundError):
                reader.read(0, 2)


def test_a_size_that_is_not_true(store: S3Store) -> None:
    store.put("a", b"12345")
    for size_bytes in (4, 6):
        with store.open("a", size_bytes=size_bytes) as reader, pytest.raises(ObjectChangedError):
            reader.read(0, 3)
