"""Uploads in several parts, and conditions."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from objectcache.errors import (
    NotSupportedError,
    ObjectChangedError,
    ObjectExistsError,
    ObjectNotFoundError,
    StoreUnavailableError,
)
from objectcache.stores.s3 import S3Store
from objectcache.stores.s3 import upload as upload_module
from objectcache.stores.s3.calls import PARALLEL_PARTS
from objectcache.testing.store_listing import stored_names
from tests.fault_proxy import FaultProxy
from tests.services import S3Service
from tests.stores_s3.conftest import HASTY, PART_BYTES, OpenStore


def _left_over(service: S3Service, bucket: str) -> list[str]:
    """Keys of multipart uploads that were begun and neither completed nor aborted."""
    return [upload["Key"] for upload in service.client().list_multipart_uploads(Bucket=bucket).get("Uploads", [])]


@pytest.mark.parametrize("size_bytes", [PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES, 3 * PART_BYTES + 7])
def test_any_size_in_any_pieces(service: S3Service, bucket: str, store: S3Store, size_bytes: int) -> None:
    data = b"".join(b"%015d\n" % number for number in range(size_bytes // 16 + 1))[:size_bytes]
    with store.upload("a", size_bytes=7) as upload:
        for start, stop in ((0, 1), (1, 70_000), (70_000, 2 * PART_BYTES + 5), (2 * PART_BYTES + 5, size_bytes)):
            upload.write(data[start:stop])
        info = upload.publish()
    assert (info.size_bytes, info.etag) == (size_bytes, store.head("a").etag)
    assert store.get("a") == data
    assert _left_over(service, bucket) == []
    assert store.request_counts().get("multipart", 0) == (
        0 if size_bytes <= PART_BYTES else 2 + -(-size_bytes // PART_BYTES)
    )


def test_an_aborted_upload_leaves_nothing(service: S3Service, bucket: str, store: S3Store) -> None:
    for parts in (1, 2, 9):
        with store.upload("a") as upload:
            upload.write(bytes(parts * PART_BYTES + 1))
    assert _left_over(service, bucket) == []
    assert stored_names(store) == []
    assert not [thread for thread in threading.enumerate() if thread.name == "s3-upload"]


def test_an_upload_whose_part_fails_leaves_nothing(
    service: S3Service, proxy: FaultProxy, bucket: str, open_s3: OpenStore
) -> None:
    store = open_s3(bucket, proxy.endpoint, timing=HASTY)
    proxy.answer(500, only="partNumber=3")
    with pytest.raises(StoreUnavailableError):
        store.put("a", bytes(12 * PART_BYTES))
    proxy.heal()
    assert _left_over(service, bucket) == []
    assert stored_names(store) == []


def test_memory_for_parts_is_bounded(proxy: FaultProxy, bucket: str, open_s3: OpenStore) -> None:
    """Writing waits for what was written before."""
    store = open_s3(bucket, proxy.endpoint)
    proxy.slow(0.05)
    with store.upload("a") as upload:
        for written in range(1, 25):
            upload.write(bytes(PART_BYTES))
            sent = sum("partNumber" in line for line in proxy.requests)
            assert written - sent <= PARALLEL_PARTS + 3  # one fills, one waits, one is taken
        upload.publish()
    assert 1 < proxy.most_at_once <= PARALLEL_PARTS + 1


def test_if_absent_for_large_objects(service: S3Service, bucket: str, store: S3Store) -> None:
    data = bytes(PART_BYTES + 1)
    store.put("a", data, if_absent=True)
    with pytest.raises(ObjectExistsError):
        store.put("a", data, if_absent=True)
    with store.upload("b", if_absent=True) as late:
        late.write(data)
        store.put("b", b"early")
        with pytest.raises(ObjectExistsError):
            late.publish()
    assert store.get("b") == b"early"
    assert _left_over(service, bucket) == []


def test_if_match_for_large_objects(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytes(2 * PART_BYTES)
    first = store.put("a", b"1")
    with pytest.raises(ObjectChangedError):
        store.put("a", data, if_match="another")
    second = store.put("a", data, if_match=first.etag)
    assert store.head("a").etag == second.etag
    with pytest.raises(ObjectNotFoundError):
        store.put("none", data, if_match=first.etag)
    # Of a multipart upload the etag is another kind.
    third = store.put("a", data)
    assert store.put("a", b"2", if_match=third.etag).size_bytes == 1
    monkeypatch.setattr(upload_module, "REPLACEMENT_BYTES", 1000)
    with store.upload("a", if_match=second.etag) as upload, pytest.raises(NotSupportedError):
        upload.write(bytes(1001))


EXIT = """
import sys
from objectcache.stores import open_store
store = open_store(sys.argv[1])
upload = store.upload("forgotten")
upload.write(bytes(20 << 20))
with store.upload("a") as stored:
    stored.write(bytes(20 << 20))
    stored.publish()
reader = store.open("a")
reader.read(0, 9 << 20)
reader.prefetch(0, 20 << 20)
print("end", flush=True)
"""


def test_a_process_that_ends_in_the_middle_ends_well(service: S3Service, bucket: str) -> None:
    command = [sys.executable, "-W", "error", "-c", EXIT, f"s3://{bucket}?endpoint={service.endpoint}"]
    for _ in range(5):
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "end\n", "")
    assert _left_over(service, bucket) == []
