"""What a reader asks for and makes of the answers, without a service."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import cast

import pytest

from objectcache.errors import ObjectChangedError, StoreError, StoreUnavailableError
from objectcache.stores.base import ObjectInfo
from objectcache.stores.s3 import S3Timing
from objectcache.stores.s3.calls import S3Calls, Stored
from objectcache.stores.s3.reader import S3Fetching, S3Reader

PART_BYTES = 100
DATA = bytes(range(256)) * 4
ETAG = "e"


class FakeCalls:
    """Answers GETs of DATA; `fault` may raise, wait, or give another etag."""

    timing = S3Timing(request_timeout_s=0.1, retry_timeout_s=0, max_backoff_s=0)

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, str]] = []
        self.fault: Callable[[int], str | None] = lambda start: None

    def get(self, key: str, start: int, stop: int, etag: str) -> tuple[memoryview, Stored]:
        self.asked.append((start, stop, etag))
        answered = self.fault(start) or ETAG
        return memoryview(DATA[start:stop]), Stored(len(DATA), 0.0, answered, {})


@pytest.fixture
def calls() -> FakeCalls:
    return FakeCalls()


@pytest.fixture
def fetching() -> Iterator[S3Fetching]:
    fetching = S3Fetching(PART_BYTES, 4, 10 * PART_BYTES)
    yield fetching
    fetching.close()


def _reader(calls: FakeCalls, fetching: S3Fetching, etag: str = "", size_bytes: int = len(DATA)) -> S3Reader:
    return S3Reader(ObjectInfo("a", size_bytes, 0.0, etag), "k", cast(S3Calls, calls), fetching)


def test_small_reads_are_one_request_with_the_etag_that_is_known(calls: FakeCalls, fetching: S3Fetching) -> None:
    with _reader(calls, fetching) as reader:
        assert reader.read(5, PART_BYTES) == DATA[5 : 5 + PART_BYTES]
        assert reader.read(0, 1) == DATA[:1]
    assert calls.asked == [(5, 105, ""), (0, 1, ETAG)]


def test_large_reads_are_cut(calls: FakeCalls, fetching: S3Fetching) -> None:
    with _reader(calls, fetching, ETAG) as reader:
        assert reader.read(50, 920) == DATA[50:970]
    assert sorted(calls.asked) == [(at, min(at + PART_BYTES, 970), ETAG) for at in range(50, 970, PART_BYTES)]


def test_two_versions_are_never_mixed(calls: FakeCalls, fetching: S3Fetching) -> None:
    """Even when no etag is known while all parts are asked for."""
    together = threading.Barrier(4)

    def replaced(start: int) -> str | None:
        together.wait(10)
        return "another" if start == 200 else None

    calls.fault = replaced
    with _reader(calls, fetching) as reader, pytest.raises(ObjectChangedError):
        reader.read(0, 4 * PART_BYTES)
    assert {etag for _, _, etag in calls.asked} == {""}


def test_another_size_is_another_object(calls: FakeCalls, fetching: S3Fetching) -> None:
    with _reader(calls, fetching, size_bytes=len(DATA) + 1) as reader, pytest.raises(ObjectChangedError):
        reader.read(0, 10)


def test_what_fails_does_not_wait_for_the_rest(calls: FakeCalls, fetching: S3Fetching) -> None:
    def fail(start: int) -> None:
        raise StoreUnavailableError(f"at {start}")

    calls.fault = fail
    with _reader(calls, fetching, ETAG) as reader, pytest.raises(StoreUnavailableError):
        reader.read(0, 1000)
    assert len(calls.asked) < 10


def test_nothing_is_written_after_a_read_has_failed(calls: FakeCalls, fetching: S3Fetching) -> None:
    late, failed = threading.Event(), threading.Event()

    def fault(start: int) -> None:
        if start == 0:
            failed.set()
            raise StoreUnavailableError("the first part")
        late.wait(10)

    calls.fault = fault
    out = bytearray(4 * PART_BYTES)
    with _reader(calls, fetching, ETAG) as reader, pytest.raises(StoreUnavailableError):
        reader.read_into(0, memoryview(out))
    assert failed.is_set()
    late.set()
    fetching.reads.shutdown(wait=True)
    assert not any(out)


def test_reads_that_queue_too_long_fail(calls: FakeCalls, fetching: S3Fetching) -> None:
    held = threading.Event()

    def hang(start: int) -> None:
        held.wait(20)

    calls.fault = hang
    with _reader(calls, fetching, ETAG) as reader, pytest.raises(StoreUnavailableError, match="too many"):
        reader.read(0, 1000)
    held.set()


def test_a_store_that_was_closed(calls: FakeCalls, fetching: S3Fetching) -> None:
    fetching.close()
    with _reader(calls, fetching, ETAG) as reader:
        reader.prefetch(0, 100)
        with pytest.raises(StoreError):
            reader.read(0, 1000)
    assert calls.asked == []


def test_what_is_here_is_not_asked_for(calls: FakeCalls, fetching: S3Fetching) -> None:
    with _reader(calls, fetching, ETAG) as reader:
        reader.prefetch(100, 200)
        fetching.prefetches.shutdown(wait=True)
        assert reader.read(50, 300) == DATA[50:350]
    assert sorted(calls.asked) == [(50, 100, ETAG), (100, 200, ETAG), (200, 300, ETAG), (300, 350, ETAG)]
    assert fetching.budget.free_bytes == 10 * PART_BYTES
