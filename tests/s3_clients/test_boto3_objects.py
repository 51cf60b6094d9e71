"""boto3: headers, conditions, presigned URLs and encodings of single objects."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from objectcache.s3 import Credentials
from tests.gateway.process import BUCKET, Answer, GatewayProcess
from tests.s3_clients import boto
from tests.s3_clients.conftest import require
from tests.s3_clients.keys import OWNER, READER, UNKNOWN_KEY, WRONG_SECRET

BODY = b"the body of an object, " * 1000
LARGE = b"the body of a large object, " * 10_000
"""Beyond what the control process answers itself."""


def key_of(request: pytest.FixtureRequest) -> str:
    return f"boto3/{request.node.name}"


@pytest.fixture
def at(request: pytest.FixtureRequest) -> dict[str, str]:
    """Bucket and key of the test's own object."""
    return {"Bucket": BUCKET, "Key": key_of(request)}


@pytest.fixture
def presigning(endpoint: str) -> Any:
    """boto3 presigns by signature version 2 where it is not told otherwise."""
    require(boto.MISSING)
    return boto.client(endpoint, OWNER, signature_version="s3v4")


def ask(gateway: GatewayProcess, method: str, url: str, body: bytes = b"") -> Answer:
    """As a program that was given the URL, and no more."""
    parts = urlsplit(url)
    return gateway.ask(method, f"{parts.path}?{parts.query}", body)


def test_headers_come_back(s3: Any, at: dict[str, str]) -> None:
    headers = {
        "ContentType": "text/x-poem; charset=utf-8",
        "CacheControl": "max-age=60",
        "ContentDisposition": 'attachment; filename="a b.txt"',
        "ContentLanguage": "la",
        "Metadata": {"one": "1", "with-spaces": "two  words", "empty": ""},
    }
    s3.put_object(**at, Body=BODY, **headers)
    for answer in (s3.head_object(**at), s3.get_object(**at)):
        assert {name: answer[name] for name in headers} == headers
        assert answer["ContentLength"] == len(BODY)
    copy = at | {"Key": at["Key"] + "-copy"}
    s3.copy_object(**copy, CopySource=at)
    assert s3.head_object(**copy)["Metadata"] == headers["Metadata"]
    s3.copy_object(**copy, CopySource=at, MetadataDirective="REPLACE", Metadata={"three": "3"}, ContentType="a/b")
    found = s3.head_object(**copy)
    assert (found["Metadata"], found["ContentType"]) == ({"three": "3"}, "a/b")


@pytest.mark.parametrize("content", [BODY, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("calculation", ["when_supported", "when_required"])
def test_what_is_compressed_is_kept_as_sent(
    tls_endpoint: str, certificate: tuple[Path, Path], at: dict[str, str], calculation: str, content: bytes
) -> None:
    """Over TLS: in aws-chunked, or as a body that HTTP servers would gladly decompress."""
    require(boto.MISSING)
    s3 = boto.client(tls_endpoint, OWNER, verify=certificate[0], request_checksum_calculation=calculation)
    sent = gzip.compress(content)
    s3.put_object(**at, Body=sent, ContentEncoding="gzip")
    got = s3.get_object(**at)
    assert got["ContentEncoding"] == "gzip"
    assert got["Body"].read() == sent


@pytest.mark.parametrize("content", [BODY, LARGE], ids=["small", "large"])
@pytest.mark.parametrize(
    ("header", "first", "stop"), [("bytes=0-0", 0, 1), ("bytes=10-99", 10, 100), ("bytes=-9", -9, None)]
)
def test_ranges(s3: Any, at: dict[str, str], content: bytes, header: str, first: int, stop: int | None) -> None:
    s3.put_object(**at, Body=content)
    got = s3.get_object(**at, Range=header)
    assert got["Body"].read() == content[first:stop]
    assert got["ContentRange"].endswith(f"/{len(content)}")
    assert boto.refusal(s3.get_object, **at, Range=f"bytes={len(content)}-") == ("InvalidRange", 416)


def test_conditional_reads(s3: Any, at: dict[str, str]) -> None:
    etag = s3.put_object(**at, Body=BODY)["ETag"]
    modified = s3.head_object(**at)["LastModified"]
    for read in (s3.get_object, s3.head_object):
        read(**at, IfMatch=etag)
        read(**at, IfNoneMatch='"0123456789abcdef0123456789abcdef"')
        read(**at, IfUnmodifiedSince=modified)
        assert boto.refusal(read, **at, IfMatch='"other"')[1] == 412
        assert boto.refusal(read, **at, IfNoneMatch=etag)[1] == 304
        assert boto.refusal(read, **at, IfModifiedSince=modified)[1] == 304
    assert boto.refusal(s3.get_object, **at, IfMatch='"other"')[0] == "PreconditionFailed"


def put_whole(s3: Any, at: dict[str, str], content: bytes, **conditions: str) -> str:
    etag: str = s3.put_object(**at, Body=content, **conditions)["ETag"]
    return etag


def put_in_parts(s3: Any, at: dict[str, str], content: bytes, **conditions: str) -> str:
    upload = at | {"UploadId": s3.create_multipart_upload(**at)["UploadId"]}
    part = {"PartNumber": 1, "ETag": s3.upload_part(**upload, PartNumber=1, Body=content)["ETag"]}
    etag: str = s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": [part]}, **conditions)["ETag"]
    return etag


@pytest.mark.parametrize("put", [put_whole, put_in_parts])
def test_conditional_writes(s3: Any, at: dict[str, str], put: Callable[..., str]) -> None:
    def refused(**conditions: str) -> tuple[str, int]:
        return boto.refusal(put, s3=s3, at=at, content=b"refused", **conditions)

    first = put(s3, at, b"first", IfNoneMatch="*")
    assert refused(IfNoneMatch="*") == ("PreconditionFailed", 412)
    second = put(s3, at, b"second", IfMatch=first)
    assert refused(IfMatch=first) == ("PreconditionFailed", 412)
    assert refused(IfNoneMatch=second) == ("NotImplemented", 501)
    assert s3.get_object(**at)["Body"].read() == b"second"
    third = put(s3, at, b"third", IfMatch="*")
    s3.delete_object(**at)
    assert refused(IfMatch=third) == ("NoSuchKey", 404)
    assert refused(IfMatch="*") == ("NoSuchKey", 404)
    assert boto.refusal(s3.get_object, **at) == ("NoSuchKey", 404)


@pytest.mark.parametrize("content", [BODY, LARGE], ids=["small", "large"])
def test_presigned_urls(gateway: GatewayProcess, presigning: Any, at: dict[str, str], content: bytes) -> None:
    put = presigning.generate_presigned_url("put_object", at)
    assert ask(gateway, "PUT", put, content).status == 200
    got = ask(gateway, "GET", presigning.generate_presigned_url("get_object", at))
    assert (got.status, got.body) == (200, content)
    named = at | {"ResponseContentType": "text/x-other", "ResponseContentDisposition": "inline"}
    answer = ask(gateway, "GET", presigning.generate_presigned_url("get_object", named))
    assert (answer.headers["content-type"], answer.headers["content-disposition"]) == ("text/x-other", "inline")


def test_a_presigned_url_is_for_what_it_says(
    gateway: GatewayProcess, s3: Any, presigning: Any, at: dict[str, str]
) -> None:
    s3.put_object(**at, Body=BODY)
    url = presigning.generate_presigned_url("get_object", at)
    for method, changed in (("PUT", url), ("GET", url.replace("boto3/", "boto4/")), ("DELETE", url)):
        refused = ask(gateway, method, changed, BODY if method == "PUT" else b"")
        assert (refused.status, refused.error["Code"]) == (403, "SignatureDoesNotMatch")
    assert s3.get_object(**at)["Body"].read() == BODY


def test_a_url_presigned_by_version_2_is_told_what_is_served(
    gateway: GatewayProcess, s3: Any, at: dict[str, str]
) -> None:
    refused = ask(gateway, "GET", s3.generate_presigned_url("get_object", at))
    assert (refused.status, refused.error["Code"]) == (400, "InvalidRequest")
    assert "AWS4-HMAC-SHA256" in refused.error["Message"]


@pytest.mark.parametrize("operation", ["get_object", "put_object"])
def test_a_presigned_url_expires(
    gateway: GatewayProcess, s3: Any, presigning: Any, at: dict[str, str], operation: str
) -> None:
    s3.put_object(**at, Body=BODY)
    url = presigning.generate_presigned_url(operation, at, ExpiresIn=1)
    time.sleep(2.1)  # the time it was signed at has whole seconds
    method = operation[:3].upper()
    refused = ask(gateway, method, url, b"too late" if method == "PUT" else b"")
    assert (refused.status, refused.error["Code"]) == (403, "AccessDenied")
    assert refused.error["Message"].startswith("Request has expired")
    assert s3.get_object(**at)["Body"].read() == BODY


@pytest.mark.parametrize(
    ("keys", "code"),
    [(WRONG_SECRET, "SignatureDoesNotMatch"), (UNKNOWN_KEY, "InvalidAccessKeyId"), (READER, "AccessDenied")],
    ids=["wrong secret", "unknown key", "read only"],
)
def test_refusals(endpoint: str, s3: Any, at: dict[str, str], keys: Credentials, code: str) -> None:
    s3.put_object(**at, Body=BODY)
    refused = boto.client(endpoint, keys)
    other = at | {"Key": at["Key"] + "-other"}
    assert boto.refusal(refused.put_object, **at, Body=LARGE) == (code, 403)
    assert boto.refusal(refused.delete_object, **at) == (code, 403)
    assert boto.refusal(refused.copy_object, **other, CopySource=at) == (code, 403)
    assert boto.refusal(refused.create_multipart_upload, **at) == (code, 403)
    assert boto.refusal(refused.delete_objects, Bucket=BUCKET, Delete={"Objects": [{"Key": at["Key"]}]}) == (code, 403)
    assert boto.refusal(refused.create_bucket, Bucket="another") == (code, 403)
    assert boto.refusal(refused.delete_bucket, Bucket=BUCKET) == (code, 403)
    assert s3.get_object(**at)["Body"].read() == BODY


def test_without_a_signature_nothing_is_served(gateway: GatewayProcess, s3: Any, at: dict[str, str]) -> None:
    s3.put_object(**at, Body=BODY)
    for method in ("GET", "PUT", "DELETE"):
        refused = gateway.ask(method, f"/{BUCKET}/{at['Key']}")
        assert (refused.status, refused.error["Code"]) == (403, "AccessDenied")
