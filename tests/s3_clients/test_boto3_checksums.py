"""boto3: bodies that must be what their digests say, over plain HTTP and, in aws-chunked with trailers, over TLS."""

from __future__ import annotations

import base64
import hashlib
import io
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.process import BUCKET
from tests.s3_clients import boto
from tests.s3_clients.conftest import require
from tests.s3_clients.keys import OWNER, WRONG_SECRET

SMALL = b"a few bytes"
LARGE = b"a few more bytes, " * 100_000
ALGORITHMS = ("CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256")


@pytest.fixture
def at(request: pytest.FixtureRequest) -> dict[str, str]:
    return {"Bucket": BUCKET, "Key": f"boto3/{request.node.name}"}


@pytest.mark.parametrize("content", [b"", SMALL, LARGE], ids=["empty", "small", "large"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_checksums_are_kept_and_told(either: Any, at: dict[str, str], algorithm: str, content: bytes) -> None:
    put = either.put_object(**at, Body=io.BytesIO(content), ChecksumAlgorithm=algorithm)
    name = f"Checksum{algorithm}"
    head = either.head_object(**at, ChecksumMode="ENABLED")
    got = either.get_object(**at, ChecksumMode="ENABLED")
    assert put[name] == head[name] == got[name]
    assert head["ChecksumType"] == "FULL_OBJECT"
    assert got["Body"].read() == content  # boto3 compares, too
    if algorithm.startswith("SHA"):
        assert base64.b64decode(put[name]) == hashlib.new(algorithm.lower(), content).digest()


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("given", ["ContentMD5", *(f"Checksum{algorithm}" for algorithm in ALGORITHMS)])
def test_a_wrong_digest(either: Any, at: dict[str, str], given: str, content: bytes) -> None:
    sizes = {"ContentMD5": 16, "ChecksumCRC64NVME": 8, "ChecksumSHA1": 20, "ChecksumSHA256": 32}
    wrong = base64.b64encode(bytes(sizes.get(given, 4))).decode()
    assert boto.refusal(either.put_object, **at, Body=content, **{given: wrong}) == ("BadDigest", 400)
    assert boto.refusal(either.get_object, **at) == ("NoSuchKey", 404)
    right = base64.b64encode(hashlib.md5(content).digest()).decode()
    either.put_object(**at, Body=content, ContentMD5=right)


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
def test_a_body_that_is_not_what_was_signed(endpoint: str, at: dict[str, str], content: bytes) -> None:
    """Changed between the client and the gateway."""
    require(boto.MISSING)
    s3 = boto.client(endpoint, OWNER, request_checksum_calculation="when_required")

    def tamper(request: Any, **_: Any) -> None:
        request.body = content.replace(b"few", b"FEW", 1)

    s3.meta.events.register("before-send.s3.PutObject", tamper)
    assert boto.refusal(s3.put_object, **at, Body=content) == ("XAmzContentSHA256Mismatch", 400)
    assert boto.refusal(s3.get_object, **at) == ("NoSuchKey", 404)


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
def test_a_trailer_that_does_not_match(
    tls_endpoint: str, certificate: tuple[Path, Path], at: dict[str, str], content: bytes
) -> None:
    """Over TLS the signature does not cover the body; the checksum behind it does."""
    require(boto.MISSING)
    s3 = boto.client(tls_endpoint, OWNER, verify=certificate[0])
    trailers: list[Any] = []

    def tamper(request: Any, **_: Any) -> None:
        trailers.append(request.headers["X-Amz-Trailer"])
        body = request.body.read() if hasattr(request.body, "read") else request.body
        request.body = body.replace(b"few", b"FEW", 1)

    s3.meta.events.register("before-send.s3.PutObject", tamper)
    assert boto.refusal(s3.put_object, **at, Body=io.BytesIO(content)) == ("BadDigest", 400)
    assert trailers == [b"x-amz-checksum-crc32"]
    assert boto.refusal(s3.get_object, **at) == ("NoSuchKey", 404)


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA256"])
def test_checksums_of_parts(either: Any, at: dict[str, str], algorithm: str) -> None:
    name = f"Checksum{algorithm}"
    upload = at | {"UploadId": either.create_multipart_upload(**at, ChecksumAlgorithm=algorithm)["UploadId"]}
    parts = []
    for number, part in ((1, bytes(5 << 20)), (2, SMALL)):
        answer = either.upload_part(**upload, PartNumber=number, Body=io.BytesIO(part), ChecksumAlgorithm=algorithm)
        parts.append({"PartNumber": number, "ETag": answer["ETag"], name: answer[name]})
    done = either.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    got = either.get_object(**at, ChecksumMode="ENABLED")
    assert got[name] == done[name]
    assert got["Body"].read() == bytes(5 << 20) + SMALL


def test_a_certificate_of_nobody_known_is_refused_by_the_client(tls_endpoint: str) -> None:
    require(boto.MISSING)
    from botocore.exceptions import SSLError

    with pytest.raises(SSLError):
        boto.client(tls_endpoint, OWNER).list_buckets()


def test_refusals_over_tls(tls_endpoint: str, certificate: tuple[Path, Path], at: dict[str, str]) -> None:
    require(boto.MISSING)
    s3 = boto.client(tls_endpoint, WRONG_SECRET, verify=certificate[0])
    assert boto.refusal(s3.put_object, **at, Body=io.BytesIO(LARGE)) == ("SignatureDoesNotMatch", 403)
