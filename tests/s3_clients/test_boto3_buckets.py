"""boto3: buckets, listings of many keys, deleting many, addressing, and chunks of KV as objects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from botocore.awsrequest import AWSHTTPConnection

from objectcache.cache import PartId
from objectcache.s3 import sign_headers
from objectcache.testing.synthetic import flat_layout, new_namespace, prompt, slice_bytes_of, store_parts
from tests.gateway.process import BUCKET, Answer, GatewayProcess
from tests.s3_clients import boto
from tests.s3_clients.conftest import DOMAIN, require
from tests.s3_clients.keys import OWNER, READER

NUM_KEYS = 2500


@pytest.fixture
def bucket(s3: Any, request: pytest.FixtureRequest) -> Iterator[str]:
    """A bucket of the test's own, removed with all that is in it."""
    name = request.node.name.split("[")[0].replace("_", "-")[:63].strip("-")
    s3.create_bucket(Bucket=name)
    yield name
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=name):
        if "Contents" in page:
            objects = [{"Key": item["Key"]} for item in page["Contents"]]
            s3.delete_objects(Bucket=name, Delete={"Objects": objects, "Quiet": True})
    s3.delete_bucket(Bucket=name)


def test_a_bucket_comes_and_goes(s3: Any) -> None:
    s3.create_bucket(Bucket="comes-and-goes")
    assert "comes-and-goes" in [item["Name"] for item in s3.list_buckets()["Buckets"]]
    assert s3.get_bucket_location(Bucket="comes-and-goes")["LocationConstraint"] is None  # so us-east-1 is written
    s3.put_object(Bucket="comes-and-goes", Key="key", Body=b"")
    assert boto.refusal(s3.delete_bucket, Bucket="comes-and-goes") == ("BucketNotEmpty", 409)
    s3.delete_object(Bucket="comes-and-goes", Key="key")
    s3.delete_bucket(Bucket="comes-and-goes")
    assert boto.refusal(s3.list_objects_v2, Bucket="comes-and-goes") == ("NoSuchBucket", 404)


def test_many_keys(gateway: GatewayProcess, s3: Any, bucket: str) -> None:
    """Listed by pages of 1,000, with and without a delimiter, and deleted 1,000 at a time."""
    keys = [f"{number % 50:02d}/{number:04d} ü" for number in range(NUM_KEYS)]
    put_empty(gateway, bucket, keys)
    for operation in ("list_objects_v2", "list_objects"):
        pages = list(s3.get_paginator(operation).paginate(Bucket=bucket))
        assert [len(page["Contents"]) for page in pages] == [1000, 1000, 500]
        assert [item["Key"] for page in pages for item in page["Contents"]] == sorted(keys)
        pages = list(s3.get_paginator(operation).paginate(Bucket=bucket, Delimiter="/", MaxKeys=20))
        assert [len(page["CommonPrefixes"]) for page in pages] == [20, 20, 10]
        prefixes = [item["Prefix"] for page in pages for item in page["CommonPrefixes"]]
        assert prefixes == [f"{number:02d}/" for number in range(50)]
        pages = list(s3.get_paginator(operation).paginate(Bucket=bucket, Prefix="07/", Delimiter="/", MaxKeys=30))
        found = [item["Key"] for page in pages for item in page["Contents"]]
        assert found == sorted(key for key in keys if key.startswith("07/"))
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys[:1000]]})
    assert sorted(item["Key"] for item in answer["Deleted"]) == sorted(keys[:1000])
    left = [item["Key"] for page in pages_of(s3, bucket) for item in page["Contents"]]
    assert left == sorted(keys[1000:])
    too_many = [{"Key": key} for key in keys[:1001]]
    assert boto.refusal(s3.delete_objects, Bucket=bucket, Delete={"Objects": too_many}) == ("MalformedXML", 400)


def put_empty(gateway: GatewayProcess, bucket: str, keys: list[str]) -> None:
    """Without boto3, which takes half a minute for it."""
    connection = gateway.connect()
    for key in keys:
        target, host = f"/{bucket}/{quote(key)}", f"127.0.0.1:{gateway.port}"
        connection.request("PUT", target, b"", sign_headers(OWNER, "PUT", host, target, {}, payload=b""))
        assert Answer.read(connection.getresponse()).status == 200
    connection.close()


def pages_of(s3: Any, bucket: str) -> list[dict[str, Any]]:
    return list(s3.get_paginator("list_objects_v2").paginate(Bucket=bucket))


@pytest.fixture
def by_host_name(gateway: GatewayProcess, monkeypatch: pytest.MonkeyPatch) -> Any:
    """boto3 that writes the bucket into the host name, and is told that all such names are this machine's."""
    require(boto.MISSING)
    connect = AWSHTTPConnection._new_conn
    hosts: list[str] = []

    def to_loopback(connection: Any) -> Any:
        hosts.append(connection.host)
        connection._dns_host, real = "127.0.0.1", connection._dns_host
        try:
            return connect(connection)
        finally:
            connection._dns_host = real

    monkeypatch.setattr(AWSHTTPConnection, "_new_conn", to_loopback)
    client = boto.client(f"http://{DOMAIN}:{gateway.port}", OWNER, s3={"addressing_style": "virtual"})
    client.hosts = hosts
    return client


def test_the_bucket_in_the_host_name(s3: Any, by_host_name: Any) -> None:
    at = {"Bucket": BUCKET, "Key": "boto3/by name/ü"}
    by_host_name.put_object(**at, Body=b"some text")
    assert by_host_name.hosts == [f"{BUCKET}.{DOMAIN}"]
    assert by_host_name.get_object(**at)["Body"].read() == b"some text"
    assert s3.get_object(**at)["Body"].read() == b"some text"
    found = by_host_name.list_objects_v2(Bucket=BUCKET, Prefix="boto3/by name/")["Contents"]
    assert [item["Key"] for item in found] == [at["Key"]]
    assert BUCKET in [item["Name"] for item in by_host_name.list_buckets()["Buckets"]]


def test_chunks_are_objects_that_are_not_listed(gateway: GatewayProcess, endpoint: str, s3: Any) -> None:
    namespace = new_namespace(flat_layout(3, 5000))
    chain = prompt(namespace, 4)
    with gateway.open(access_key=OWNER.access_key, secret_key=OWNER.secret_key) as cache:
        store_parts(cache, namespace, chain)
    reader = boto.client(endpoint, READER)
    for key in chain:
        expected = b"".join(slice_bytes_of(key, PartId(0, 0), layer, 5000) for layer in range(3))
        at = {"Bucket": BUCKET, "Key": f".chunks/{key.hex()}"}
        got = reader.get_object(**at)
        assert got["Body"].read() == expected
        assert got["Metadata"]["kv-parts"] == "0.0"
        assert reader.head_object(**at)["ContentLength"] == len(expected)
        assert reader.get_object(**at, Range="bytes=4990-5009")["Body"].read() == expected[4990:5010]
    assert boto.refusal(reader.get_object, Bucket=BUCKET, Key=f".chunks/{'0' * 64}") == ("NoSuchKey", 404)
    s3.put_object(Bucket=BUCKET, Key="boto3/beside", Body=b"")
    for prefix in ("", ".", ".chunks/", ".kv/"):
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        found = [item["Key"] for page in pages for item in page.get("Contents", ())]
        assert not [key for key in found if key.startswith(".")]
        assert ("boto3/beside" in found) == (not prefix)
    folders = s3.list_objects_v2(Bucket=BUCKET, Delimiter="/")["CommonPrefixes"]
    assert not [item for item in folders if item["Prefix"].startswith(".")]
    at = {"Bucket": BUCKET, "Key": f".chunks/{chain[0].hex()}"}
    assert boto.refusal(s3.put_object, **at, Body=b"poison") == ("InvalidRequest", 400)
    assert boto.refusal(s3.delete_object, **at) == ("InvalidRequest", 400)
