"""Services that fail: every call ends in time, with an error that says what kind it is, and goes well again after."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from objectcache.errors import (
    BucketMissingError,
    ObjectNotFoundError,
    StoreAccessError,
    StoreError,
    StoreUnavailableError,
)
from objectcache.stores.s3 import S3Store
from tests.fault_proxy import FaultProxy
from tests.services import S3Service
from tests.stores_s3.conftest import HASTY, PART_BYTES, OpenStore

DATA = bytes(range(256)) * 8192
SLACK_S = 10  # for a busy machine


@pytest.fixture
def service(rgw: S3Service) -> S3Service:
    return rgw


@pytest.fixture
def hasty(proxy: FaultProxy, bucket: str, open_s3: OpenStore) -> S3Store:
    """A store behind the proxy, with DATA as "a", and little patience."""
    store = open_s3(bucket, proxy.endpoint, timing=HASTY)
    store.put("a", DATA)
    return store


def _read(store: S3Store) -> None:
    with store.open("a", size_bytes=len(DATA)) as reader:
        assert reader.read(0, len(DATA)) == DATA


def _upload(store: S3Store) -> None:
    with store.upload("large") as upload:
        upload.write(bytes(3 * PART_BYTES))
        upload.publish()


CALLS: dict[str, Callable[[S3Store], object]] = {
    "head": lambda store: store.head("a"),
    "open": lambda store: store.open("a").close(),
    "get": lambda store: store.get("a"),
    "read": _read,
    "put": lambda store: store.put("b", b"1"),
    "put if absent": lambda store: store.put("c", b"1", if_absent=True),
    "put if match": lambda store: store.put("b", b"1", if_match="another"),
    "upload": _upload,
    "list": lambda store: list(store.list()),
    "list prefixes": lambda store: list(store.list_prefixes()),
    "delete": lambda store: store.delete("d"),
}


def _outcomes(store: S3Store, bound_s: float) -> dict[str, type[Exception] | None]:
    """What every call ends in. All of them at the same time, and in time."""

    def outcome(call: Callable[[S3Store], object]) -> tuple[type[Exception] | None, float]:
        begun_s = time.monotonic()
        try:
            call(store)
            return None, time.monotonic() - begun_s
        except StoreError as error:
            return type(error), time.monotonic() - begun_s

    with ThreadPoolExecutor(len(CALLS)) as threads:
        outcomes = dict(zip(CALLS, threads.map(outcome, CALLS.values()), strict=True))
    assert {name: took_s for name, (_, took_s) in outcomes.items() if took_s > bound_s + SLACK_S} == {}
    return {name: kind for name, (kind, _) in outcomes.items()}


@pytest.mark.parametrize("fault", ["down", "hang", "500", "503"])
def test_a_store_that_fails(hasty: S3Store, proxy: FaultProxy, fault: str) -> None:
    {"down": proxy.down, "hang": proxy.hang}.get(fault, lambda: proxy.answer(int(fault)))()
    assert _outcomes(hasty, 2 * HASTY.bound_s) == dict.fromkeys(CALLS, StoreUnavailableError)
    proxy.heal()
    _read(hasty)
    _upload(hasty)
    assert [info.name for info in hasty.list()] == ["a", "large"]


def test_a_store_that_is_slow_is_waited_for(hasty: S3Store, proxy: FaultProxy) -> None:
    proxy.slow(0.3)
    outcomes = _outcomes(hasty, 20 * HASTY.bound_s)
    assert outcomes.pop("put if match") is not StoreUnavailableError
    assert set(outcomes.values()) == {None}


def test_a_store_that_is_too_slow(hasty: S3Store, proxy: FaultProxy) -> None:
    proxy.slow(HASTY.request_timeout_s + 0.5)
    assert set(_outcomes(hasty, 2 * HASTY.bound_s).values()) == {StoreUnavailableError}


def test_a_store_that_refuses(hasty: S3Store, proxy: FaultProxy) -> None:
    for status in (401, 403):
        proxy.answer(status)
        assert _outcomes(hasty, HASTY.bound_s) == dict.fromkeys(CALLS, StoreAccessError)
        with pytest.raises(StoreAccessError, match="AWS_ACCESS_KEY_ID"):
            hasty.head("a")


def test_a_body_that_breaks_off_is_asked_for_again(hasty: S3Store, proxy: FaultProxy) -> None:
    proxy.cut(100_000, times=1)
    _read(hasty)
    proxy.cut(100_000, times=1)
    assert hasty.get("a") == DATA


def test_bodies_that_break_off(hasty: S3Store, proxy: FaultProxy) -> None:
    proxy.cut(1000)
    for name in ("get", "read"):
        with pytest.raises(StoreUnavailableError):
            CALLS[name](hasty)
    proxy.cut(10)
    for name in ("list", "list prefixes"):
        with pytest.raises(StoreUnavailableError):
            CALLS[name](hasty)


def test_too_few_bytes(hasty: S3Store, proxy: FaultProxy) -> None:
    proxy.shorten()
    out = bytearray(len(DATA))
    with hasty.open("a") as reader, pytest.raises(StoreUnavailableError):
        reader.read_into(0, memoryview(out))
    assert out == bytes(len(DATA))
    with pytest.raises(StoreUnavailableError):
        list(hasty.list())


def test_a_large_read_from_a_store_that_hangs_ends_in_time(proxy: FaultProxy, bucket: str, open_s3: OpenStore) -> None:
    store = open_s3(bucket, proxy.endpoint, timing=HASTY, read_threads=4)
    _upload(store)
    size_bytes = 3 * PART_BYTES
    proxy.hang()
    begun_s = time.monotonic()
    with store.open("large", size_bytes=size_bytes) as reader, ThreadPoolExecutor(8) as threads:
        reader.prefetch(0, size_bytes)
        reads = [threads.submit(reader.read, 0, size_bytes) for _ in range(8)]
        assert {type(read.exception()) for read in reads} <= {StoreUnavailableError, StoreError}
    assert time.monotonic() - begun_s < 6 * HASTY.bound_s + SLACK_S
    proxy.heal()
    assert store.get("large") == bytes(size_bytes)


def test_the_service_is_suspended(rgw: S3Service, bucket: str, open_s3: OpenStore) -> None:
    store = open_s3(bucket, rgw.endpoint, timing=HASTY)
    store.put("a", DATA)
    rgw.suspend()
    try:
        assert set(_outcomes(store, 2 * HASTY.bound_s).values()) == {StoreUnavailableError}
    finally:
        rgw.resume()
    _read(store)


def test_the_service_is_killed_and_started_again(rgw: S3Service, bucket: str, open_s3: OpenStore) -> None:
    store = open_s3(bucket, rgw.endpoint, timing=HASTY)
    store.put("a", DATA)
    with store.open("a") as reader:
        assert reader.read(0, 10) == DATA[:10]
        rgw.kill()
        assert set(_outcomes(store, 2 * HASTY.bound_s).values()) == {StoreUnavailableError}
        rgw.start()
        assert reader.read(0, len(DATA)) == DATA
    _upload(store)


def test_a_bucket_that_is_not_there(rgw: S3Service, open_s3: OpenStore) -> None:
    store = open_s3("no-such-bucket", rgw.endpoint)
    outcomes = _outcomes(store, HASTY.bound_s)
    for name in ("put", "put if absent", "upload", "list", "list prefixes"):
        assert outcomes[name] is BucketMissingError, name
    for name in ("head", "open", "get", "read", "put if match"):
        assert outcomes[name] is ObjectNotFoundError, name
    assert outcomes["delete"] is None


def test_a_bucket_that_seaweedfs_does_not_have(seaweedfs: S3Service, open_s3: OpenStore) -> None:
    """It makes one for a PUT, but not for a LIST."""
    store = open_s3("no-such-bucket", seaweedfs.endpoint)
    with pytest.raises(BucketMissingError):
        list(store.list())
    with pytest.raises(BucketMissingError):
        list(store.list_prefixes())


def test_wrong_credentials(
    service: S3Service, bucket: str, open_s3: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    store = open_s3(bucket, service.endpoint)
    assert _outcomes(store, HASTY.bound_s) == dict.fromkeys(CALLS, StoreAccessError)
