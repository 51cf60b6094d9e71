"""Gateways over buckets: the contract of caches, plain objects, the read cache, and what one does seen by another."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import objectcache
from objectcache.cache import KVCache
from objectcache.cache.local import LocalCache
from objectcache.errors import IntegrityError, KeyNotFoundError
from objectcache.keys import KeyChain, Namespace
from objectcache.stores import open_store
from objectcache.testing.caches import CacheContract
from objectcache.testing.synthetic import flat_layout, new_namespace, prompt, retrieve_and_check, store_parts
from tests.gateway.process import eventually
from tests.services import S3Service
from tests.several import AGREE_S
from tests.stores_s3.gateways import Pair, gateway_over

LAYOUT = flat_layout(6, 64 << 10)
CHUNKS = 16
TOKENS = CHUNKS * LAYOUT.key_tokens
SLACK_S = 5.0
"""For a busy machine."""


@pytest.fixture(scope="module")
def pairs() -> Iterator[dict[str, Pair]]:
    started: dict[str, Pair] = {}
    yield started
    for pair in started.values():
        try:
            pair.stop()
        finally:
            pair.end()


@pytest.fixture
def pair(service: S3Service, pairs: dict[str, Pair], tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Two gateways for many tests, on each service."""
    if service.name not in pairs:
        pairs[service.name] = Pair.start(service, tmp_path_factory.mktemp(service.name))
    return pairs[service.name]


class TestGatewayOverS3(CacheContract):
    @pytest.fixture(autouse=True)
    def use(self, pair: Pair) -> Iterator[None]:
        self.gateway = pair.near
        yield
        eventually(lambda: self.gateway.metric("objectcache_deliveries_running") == 0, "deliveries end")

    def open_cache(self, *, buffer_bytes: int = 1 << 30) -> KVCache:
        return self.gateway.open(buffer_bytes=buffer_bytes)

    def restart(self) -> None:
        self.gateway.restart()


def test_plain_objects(pair: Pair) -> None:
    s3 = pair.client(pair.near)
    data = os.urandom((3 << 20) + 1)
    for key, body in (("a/small", data[:1000]), ("a/large ü+", data), ("b", b"")):
        answer = s3.put_object(
            Bucket="kvcache", Key=key, Body=body, ContentType="text/x-test", Metadata={"some": "thing", "empty": ""}
        )
        assert answer["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'
        found = pair.client(pair.far).get_object(Bucket="kvcache", Key=key)
        assert found["Body"].read() == body
        assert found["ETag"] == answer["ETag"]
        assert found["ContentType"] == "text/x-test"
        assert found["Metadata"] == {"some": "thing", "empty": ""}
    found = s3.get_object(Bucket="kvcache", Key="a/large ü+", Range="bytes=1000-2000999")
    assert found["Body"].read() == data[1000:2001000]
    assert found["ContentRange"] == f"bytes 1000-2000999/{len(data)}"

    s3.copy_object(Bucket="kvcache", Key="c", CopySource={"Bucket": "kvcache", "Key": "a/large ü+"})
    copied, source = s3.head_object(Bucket="kvcache", Key="c"), s3.head_object(Bucket="kvcache", Key="a/large ü+")
    assert copied["ETag"] == source["ETag"]
    assert copied["Metadata"] == {"some": "thing", "empty": ""}

    upload = s3.create_multipart_upload(Bucket="kvcache", Key="parts", Metadata={"in": "parts"})["UploadId"]
    bodies = [os.urandom(5 << 20), os.urandom(1000)]
    parts = [
        {
            "PartNumber": number,
            "ETag": s3.upload_part(Bucket="kvcache", Key="parts", UploadId=upload, PartNumber=number, Body=body)[
                "ETag"
            ],
        }
        for number, body in enumerate(bodies, 1)
    ]
    completed = s3.complete_multipart_upload(
        Bucket="kvcache", Key="parts", UploadId=upload, MultipartUpload={"Parts": parts}
    )
    again = s3.complete_multipart_upload(
        Bucket="kvcache", Key="parts", UploadId=upload, MultipartUpload={"Parts": parts}
    )
    assert again["ETag"] == completed["ETag"], "as a client asks that did not get the first answer"
    found = s3.get_object(Bucket="kvcache", Key="parts")
    assert found["Body"].read() == b"".join(bodies)
    assert found["Metadata"] == {"in": "parts"}
    assert found["ETag"] == completed["ETag"]

    listed = s3.list_objects_v2(Bucket="kvcache")["Contents"]
    assert {item["Key"]: item["Size"] for item in listed} == {
        "a/small": 1000,
        "a/large ü+": len(data),
        "b": 0,
        "c": len(data),
        "parts": (5 << 20) + 1000,
    }
    assert {item["ETag"] for item in listed if item["Key"] in ("a/large ü+", "c")} == {source["ETag"]}
    assert s3.list_objects_v2(Bucket="kvcache", Delimiter="/")["CommonPrefixes"] == [{"Prefix": "a/"}]
    s3.delete_objects(Bucket="kvcache", Delete={"Objects": [{"Key": item["Key"]} for item in listed]})
    assert "Contents" not in pair.client(pair.far).list_objects_v2(Bucket="kvcache")
    with pytest.raises(s3.exceptions.NoSuchKey):
        s3.get_object(Bucket="kvcache", Key="b")


def matches(cache: KVCache, namespace: Namespace, chain: KeyChain, tokens: int) -> bool:
    return cache.match(namespace, chain).tokens == tokens


def segment_reads(pair: Pair) -> int:
    return sum(line.startswith("GET ") and "/seg/" in line for line in pair.proxy.requests)


def test_what_was_read_once_is_on_the_disk(pair: Pair) -> None:
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, CHUNKS)
    with pair.near.open() as near, pair.far.open() as far:
        store_parts(near, namespace, chain)
        eventually(lambda: far.match(namespace, chain).tokens == TOKENS, "the other gateway knows it")
        pair.proxy.requests.clear()
        retrieve_and_check(far, namespace, chain)
        assert segment_reads(pair) == 2, "6 MiB, in extents of 4 MiB"
        pair.proxy.requests.clear()
        assert retrieve_and_check(far, namespace, chain).tokens == TOKENS
        assert segment_reads(pair) == 0
        other = prompt(namespace, CHUNKS, seed=1)
        store_parts(far, namespace, other)
        pair.proxy.requests.clear()
        assert retrieve_and_check(far, namespace, other).tokens == TOKENS
        assert segment_reads(pair) == 0, "what was stored is there, too"


def test_damaged_copies_cost_one_retrieval_and_no_segment(pair: Pair) -> None:
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, CHUNKS)
    with pair.near.open() as cache:
        store_parts(cache, namespace, chain)
        assert retrieve_and_check(cache, namespace, chain).tokens == TOKENS
        for path in (pair.near.data / "store" / "read-cache" / "extents").rglob("*-*"):
            if path.is_file():
                path.write_bytes(os.urandom(path.stat().st_size))
        forgotten = pair.near.metric("objectcache_core_forgotten")
        with pytest.raises(IntegrityError):
            retrieve_and_check(cache, namespace, chain)

        def is_read() -> bool:
            try:
                return retrieve_and_check(cache, namespace, chain).tokens == TOKENS
            except IntegrityError:  # its check runs beside the next retrieval
                return False

        eventually(is_read, "the segment itself is read")
        assert pair.near.metric("objectcache_core_forgotten") == forgotten


def test_a_segment_that_is_gone_is_absent_and_then_a_miss(pair: Pair) -> None:
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, CHUNKS)
    with pair.near.open() as near, pair.far.open() as far, open_store(pair.store_url) as behind:
        (ticket,) = store_parts(near, namespace, chain)
        eventually(lambda: far.match(namespace, chain).tokens == TOKENS, "the other gateway knows it")
        behind.delete(ticket.header.name)
        with pytest.raises(KeyNotFoundError):
            retrieve_and_check(far, namespace, chain)
        for cache in (far, near):
            eventually(partial(matches, cache, namespace, chain, 0), "it is forgotten by both")


def test_buckets_are_those_of_all_gateways(pair: Pair) -> None:
    near, far = pair.client(pair.near), pair.client(pair.far)

    def names(s3: Any) -> list[str]:
        return [item["Name"] for item in s3.list_buckets()["Buckets"]]

    assert names(far) == ["kvcache"]
    near.create_bucket(Bucket="another")
    far.put_object(Bucket="another", Key="x", Body=b"1")
    assert near.get_object(Bucket="another", Key="x")["Body"].read() == b"1"
    assert names(far) == names(near) == ["another", "kvcache"]
    with pytest.raises(near.exceptions.ClientError, match="BucketNotEmpty"):
        near.delete_bucket(Bucket="another")
    near.delete_object(Bucket="another", Key="x")
    namespace = new_namespace(LAYOUT)
    with objectcache.open(f"http://127.0.0.1:{pair.far.port}/another") as cache:
        store_parts(cache, namespace, prompt(namespace, 2))
    keys = [item.name for item in open_store(pair.store_url.replace("/kvcache", "/another")).list()]
    assert len(keys) > 2
    near.delete_bucket(Bucket="another")
    assert list(open_store(pair.store_url.replace("/kvcache", "/another")).list()) == []
    assert names(far) == names(near) == ["kvcache"]
    far.create_bucket(Bucket="another")  # it had not noticed
    assert near.list_objects_v2(Bucket="another")["KeyCount"] == 0
    far.delete_bucket(Bucket="another")
    assert names(far) == ["kvcache"]


def test_a_gateway_and_a_process_see_each_others_commits(pair: Pair, tmp_path: Path) -> None:
    namespace = new_namespace(LAYOUT)
    with pair.near.open() as gateway, objectcache.open(pair.store_url, state_dir=tmp_path) as direct:
        assert isinstance(direct, LocalCache)
        for number, (writer, reader) in enumerate([(gateway, direct), (direct, gateway)]):
            chain = prompt(namespace, CHUNKS, seed=number)
            store_parts(writer, namespace, chain)
            begun_s = time.monotonic()
            eventually(partial(matches, reader, namespace, chain, TOKENS), "the other knows it")
            assert time.monotonic() - begun_s < AGREE_S + SLACK_S
            assert retrieve_and_check(reader, namespace, chain).tokens == TOKENS


def test_a_session_is_one_workers_so_that_nothing_is_fetched_twice(service: S3Service, tmp_path: Path) -> None:
    store = f"s3://{service.make_bucket()}/gw?endpoint={service.endpoint}"
    gateway = gateway_over(store, tmp_path, workers=2, workers_per_session=2, spread_from_bytes=0).start()
    try:
        workers = gateway.worker_pids
        namespace = new_namespace(LAYOUT)
        with gateway.open(target="http") as cache:
            store_parts(cache, namespace, prompt(namespace, CHUNKS))
        with gateway.open(target="tcp", streams=4) as cache:
            before = [connections_of(pid) for pid in workers]
            retrieve_and_check(cache, namespace, prompt(namespace, CHUNKS))
            more = [connections_of(pid) - held for pid, held in zip(workers, before, strict=True)]
            assert sorted(count >= 4 for count in more) == [False, True]
    finally:
        gateway.kill()


def connections_of(pid: int) -> int:
    """Sockets that a process has open."""
    found = 0
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found += os.readlink(path).startswith("socket:")
    return found
