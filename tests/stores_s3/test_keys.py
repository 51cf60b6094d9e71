"""What others see in the bucket, and what a store makes of what others put there."""

from __future__ import annotations

import hashlib

import pytest

from objectcache.errors import InvalidObjectNameError, MetadataError
from objectcache.stores.s3 import S3Store
from objectcache.testing.store_listing import TRICKY_NAMES, stored_names
from tests.services import S3Service


def test_keys_are_the_prefix_and_the_name(rgw: S3Service, bucket: str, store: S3Store) -> None:
    names = [name for name in TRICKY_NAMES if len(name.encode()) <= 1024 - len("kv/")]
    for name in names:
        store.put(name, b"")
    client = rgw.client()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    keys = [found["Key"] for page in pages for found in page.get("Contents", [])]
    assert keys == sorted((f"kv/{name}" for name in names), key=str.encode)


@pytest.fixture
def service(rgw: S3Service) -> S3Service:
    return rgw


def test_names_too_long_for_a_key(store: S3Store) -> None:
    longest = "x" * (1024 - len("kv/"))
    store.put(longest, b"1")
    assert stored_names(store) == [longest]
    for call in (store.open, store.head, store.get, store.delete, store.upload):
        with pytest.raises(InvalidObjectNameError):
            call(longest + "x")


def test_only_what_is_below_the_prefix_is_listed(service: S3Service, bucket: str, store: S3Store) -> None:
    client = service.client()
    for key in ("a", "kv", "kv/", "kv-/a", "kv0", "kw/a", "kv/mine"):
        client.put_object(Bucket=bucket, Key=key, Body=b"")
    assert stored_names(store) == ["mine"]
    assert list(store.list_prefixes()) == []


def test_keys_that_are_no_names_are_told(service: S3Service, bucket: str, store: S3Store) -> None:
    store.put("a", b"")
    service.client().put_object(Bucket=bucket, Key="kv/x//y", Body=b"")
    with pytest.raises(InvalidObjectNameError, match="prefix of its own"):
        list(store.list())
    assert store.get("a") == b""


def test_metadata_of_and_for_others(service: S3Service, bucket: str, store: S3Store) -> None:
    client = service.client()
    metadata = {
        "content-type": "text/plain",
        "content-encoding": "br",
        "content-language": "de, en",
        "content-disposition": 'attachment; filename="a b.txt"',
        "cache-control": "no-cache",
        "x-amz-meta-a": "plain",
        "x-amz-meta-b": "é",
        "expires": "never",
    }
    store.put("a", b"1", metadata=metadata)
    seen = client.head_object(Bucket=bucket, Key="kv/a")
    assert seen["ContentType"] == "text/plain"
    assert seen["ContentEncoding"] == "br"
    assert seen["ContentLanguage"] == "de, en"
    assert seen["ContentDisposition"] == 'attachment; filename="a b.txt"'
    assert seen["CacheControl"] == "no-cache"
    assert seen["Metadata"] == {"a": "plain", "b": "=?utf-8?b?w6k=?=", "objectcache-expires": "never"}
    assert store.head("a").metadata == metadata
    client.put_object(Bucket=bucket, Key="kv/b", Body=b"1", ContentType="x/y", Metadata={"k": "v"})
    assert store.head("b").metadata == {"content-type": "x/y", "x-amz-meta-k": "v"}


def test_metadata_of_large_objects(store: S3Store) -> None:
    with store.upload("a", metadata={"content-type": "x/y", "x-amz-meta-é".replace("é", "e"): "é"}) as upload:
        upload.write(bytes(6 << 20))
        assert upload.publish().metadata == {"content-type": "x/y", "x-amz-meta-e": "é"}
    assert store.head("a").metadata == {"content-type": "x/y", "x-amz-meta-e": "é"}


def test_metadata_beyond_what_s3_keeps(store: S3Store) -> None:
    store.put("a", b"", metadata={"x-amz-meta-a": "x" * 2047})
    for too_much in ({"x-amz-meta-a": "x" * 2048}, {"x-amz-meta-a": "é" * 800}, {"other": "x" * 2040}):
        with pytest.raises(MetadataError):
            store.put("a", b"", metadata=too_much)


def test_etags_are_those_of_s3(store: S3Store) -> None:
    assert store.put("a", b"1").etag == store.head("a").etag == hashlib.md5(b"1").hexdigest()
