"""Whole requests as boto3 sends them, caught before they leave: verified, decoded and compared with their checksums."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore import UNSIGNED
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.session import Session

from objectcache.errors import BadDigestError, RequestError
from objectcache.s3 import (
    Checksums,
    ChunkedDecoder,
    PayloadKind,
    announced_checksums,
    decoded_length_bytes,
    parse_authorization,
    unsigned_payload_kind,
)
from tests.s3.examples import check
from tests.s3.wire import ACCESS_KEY, SECRET_KEY, Request

BODY = b"some bytes of a body, " * 10_000


@dataclass
class Caught:
    request: Request
    body: bytes


def send(operation: str, scheme: str = "http", signed: bool = True, **parameters: Any) -> Caught:
    """The request that botocore makes of a call."""
    config = Config(s3={"addressing_style": "path"}, signature_version="s3v4" if signed else UNSIGNED)
    client = Session().create_client(
        "s3",
        "us-east-1",
        endpoint_url=f"{scheme}://localhost:9000",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=config,
    )
    caught = []

    def catch(request: Any, **_: Any) -> Any:
        parts = urlsplit(request.url)
        headers = {"host": parts.netloc}
        for name, value in request.headers.items():
            headers[name.lower()] = value.decode() if isinstance(value, bytes) else value
        body = request.body.read() if hasattr(request.body, "read") else request.body or b""
        caught.append(Caught(Request(request.method, parts.path, parts.query, headers), bytes(body)))
        return AWSResponse(request.url, 200, {}, _Raw())

    client.meta.events.register("before-send.s3", catch)
    getattr(client, operation)(**parameters)
    (found,) = caught
    return found


class _Raw(io.BytesIO):
    def stream(self, **_: Any) -> Any:
        yield b""


def received(kind: PayloadKind, headers: Mapping[str, str], wire: bytes, content_sha256: str = "") -> bytes:
    """What a server does with a body."""
    announced = announced_checksums(headers)
    checksums = Checksums(announced, content_sha256=content_sha256)
    trailers: Mapping[str, str] = {}
    payload = wire
    if kind.is_chunked:
        decoder = ChunkedDecoder(decoded_length_bytes(headers), trailers=announced.trailers)
        payload = b"".join(decoder.feed(wire))
        trailers = decoder.finish()
    checksums.update(payload)
    checksums.verify(trailers)
    return payload


@pytest.mark.parametrize("algorithm", [None, "CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
@pytest.mark.parametrize(
    ("scheme", "kind"), [("http", PayloadKind.HASH), ("https", PayloadKind.UNSIGNED_CHUNKS_TRAILER)]
)
def test_uploads(scheme: str, kind: PayloadKind, algorithm: str | None) -> None:
    more: dict[str, Any] = {"ChecksumAlgorithm": algorithm} if algorithm else {}
    caught = send("put_object", scheme, Bucket="bucket", Key="a/ü b", Body=io.BytesIO(BODY), **more)
    signed = check(caught.request)
    headers = caught.request.headers
    assert headers["x-amz-sdk-checksum-algorithm"] == (algorithm or "CRC32")
    sha256 = signed.content_sha256 if signed.payload is PayloadKind.HASH else ""
    assert received(signed.payload, headers, caught.body, sha256) == BODY
    assert signed.payload is kind
    with pytest.raises(RequestError):
        received(signed.payload, headers, caught.body.replace(b"some", b"same", 1), sha256)


def test_an_anonymous_upload_in_chunks() -> None:
    caught = send("put_object", "https", signed=False, Bucket="bucket", Key="key", Body=io.BytesIO(BODY))
    request = caught.request
    assert parse_authorization(request.method, request.path, request.query, request.headers) is None
    kind = unsigned_payload_kind(request.headers)
    assert kind is PayloadKind.UNSIGNED_CHUNKS_TRAILER
    assert received(kind, request.headers, caught.body) == BODY
    with pytest.raises(BadDigestError):
        received(kind, request.headers, caught.body.replace(b"some", b"same", 1))


@pytest.mark.parametrize(
    ("operation", "parameters"),
    [
        (
            "list_objects_v2",
            {"Bucket": "bucket", "Prefix": "a/ü +&=", "Delimiter": "/", "MaxKeys": 7, "StartAfter": "~"},
        ),
        ("get_object", {"Bucket": "bucket", "Key": "a//b/../c", "Range": "bytes=0-9"}),
        ("head_object", {"Bucket": "bucket", "Key": "%41'()*!"}),
        ("delete_objects", {"Bucket": "bucket", "Delete": {"Objects": [{"Key": "a"}, {"Key": "b"}]}}),
        ("create_multipart_upload", {"Bucket": "bucket", "Key": "key", "ChecksumAlgorithm": "CRC32"}),
        ("copy_object", {"Bucket": "bucket", "Key": "key", "CopySource": {"Bucket": "other", "Key": "ü"}}),
        ("create_bucket", {"Bucket": "bucket"}),
    ],
)
def test_other_requests(operation: str, parameters: dict[str, Any]) -> None:
    caught = send(operation, **parameters)
    signed = check(caught.request)
    assert received(signed.payload, caught.request.headers, caught.body, signed.content_sha256) == caught.body
