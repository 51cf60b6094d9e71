"""Digests of bodies: announced, computed in pieces, compared."""

from __future__ import annotations

import hashlib
import zlib
from base64 import b64encode
from collections.abc import Mapping

import botocore.httpchecksum
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from objectcache.errors import (
    BadDigestError,
    ContentSHA256MismatchError,
    InvalidDigestError,
    MalformedTrailerError,
    RequestError,
)
from objectcache.s3 import AnnouncedChecksums, Checksums, announced_checksums
from objectcache.s3.checksums import ALGORITHMS

# The check values of the CRC catalogue, and of RFC 1321, 3174 and FIPS 180, for these nine bytes.
BODY = b"123456789"
KNOWN = {
    "crc32": "cbf43926",
    "crc32c": "e3069283",
    "crc64nvme": "ae8b14860a799888",
    "sha1": "f7c3bc1d808e04732adf679965ccc34ca7ae3441",
    "sha256": "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
    "md5": "25f9e794323b453885f5181f1b624d0b",
}
ENCODED = {name: b64encode(bytes.fromhex(value)).decode() for name, value in KNOWN.items()}


def checked(headers: Mapping[str, str], body: bytes, trailers: Mapping[str, str] | None = None) -> None:
    checksums = Checksums(announced_checksums(headers))
    checksums.update(body)
    checksums.verify(trailers)


@pytest.mark.parametrize("algorithm", KNOWN)
def test_known_digests_whatever_the_pieces(algorithm: str) -> None:
    for split in range(len(BODY) + 1):
        checksums = Checksums(AnnouncedChecksums(), also=[algorithm])
        checksums.update(bytearray(BODY[:split]))
        checksums.update(memoryview(BODY)[split:])
        assert checksums.digest(algorithm).hex() == KNOWN[algorithm]
        assert checksums.encoded(algorithm) == ENCODED[algorithm]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_checksum_ahead(algorithm: str) -> None:
    headers = {
        f"X-Amz-Checksum-{algorithm.upper()}": ENCODED[algorithm],
        "x-amz-sdk-checksum-algorithm": algorithm.upper(),
    }
    announced = announced_checksums(headers)
    assert announced == AnnouncedChecksums(algorithm=algorithm, value=bytes.fromhex(KNOWN[algorithm]))
    assert announced.trailers == ()
    checked(headers, BODY)
    with pytest.raises(BadDigestError):
        checked(headers, BODY + b"0")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_checksum_in_the_trailer(algorithm: str) -> None:
    name = f"x-amz-checksum-{algorithm}"
    headers = {"x-amz-trailer": name, "x-amz-sdk-checksum-algorithm": algorithm.upper()}
    announced = announced_checksums(headers)
    assert announced == AnnouncedChecksums(algorithm=algorithm)
    assert announced.trailers == (name,)
    checked(headers, BODY, {name: ENCODED[algorithm]})
    with pytest.raises(BadDigestError):
        checked(headers, b"", {name: ENCODED[algorithm]})
    for trailers in (None, {}, {"x-amz-checksum-other": ENCODED[algorithm]}):
        with pytest.raises(MalformedTrailerError):
            checked(headers, BODY, trailers)
    with pytest.raises(RequestError):
        checked(headers, BODY, {name: "no base64"})


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_botocore_computes_the_same(algorithm: str) -> None:
    """It has no CRC-64 and CRC-32C of its own without awscrt, which then is the same as ours."""
    known = botocore.httpchecksum._CHECKSUM_CLS[algorithm]()
    known.update(BODY * 1000)
    checksums = Checksums(AnnouncedChecksums(), also=[algorithm])
    checksums.update(BODY * 1000)
    assert checksums.encoded(algorithm) == known.b64digest()


def test_content_md5() -> None:
    headers = {"Content-MD5": ENCODED["md5"], "x-amz-checksum-crc32": ENCODED["crc32"]}
    assert announced_checksums(headers).md5 == bytes.fromhex(KNOWN["md5"])
    checked(headers, BODY)
    with pytest.raises(BadDigestError):
        checked({"content-md5": ENCODED["md5"]}, b"")
    with pytest.raises(BadDigestError):
        checked(headers | {"x-amz-checksum-crc32": b64encode(bytes(4)).decode()}, BODY)


@pytest.mark.parametrize(
    "value", ["", "abc", KNOWN["md5"], ENCODED["sha1"], ENCODED["md5"] + "é", "*" + ENCODED["md5"]]
)
def test_a_content_md5_that_is_none(value: str) -> None:
    with pytest.raises(InvalidDigestError):
        announced_checksums({"content-md5": value})


def test_the_sha256_that_was_signed() -> None:
    headers = {"x-amz-checksum-sha256": ENCODED["sha256"]}
    for announced in (AnnouncedChecksums(), announced_checksums(headers)):
        for signed in (KNOWN["sha256"], KNOWN["sha256"].upper()):
            checksums = Checksums(announced, content_sha256=signed)
            checksums.update(BODY)
            checksums.verify()
        checksums.update(b"0")
        with pytest.raises(ContentSHA256MismatchError):
            checksums.verify()


@pytest.mark.parametrize(
    "headers",
    [
        {"x-amz-checksum-crc32": ENCODED["crc32"], "x-amz-checksum-sha1": ENCODED["sha1"]},
        {"x-amz-checksum-crc32": ENCODED["crc32"], "x-amz-trailer": "x-amz-checksum-crc32"},
        {"x-amz-trailer": "x-amz-checksum-crc32, x-amz-checksum-sha1"},
        {"x-amz-trailer": "x-amz-meta-a"},
        {"x-amz-trailer": "x-amz-checksum-xxhash64"},
        {"x-amz-checksum-sha512": "AAAA"},
        {"x-amz-checksum-crc32": ""},
        {"x-amz-checksum-crc32": "AAAA"},
        {"x-amz-checksum-crc32": KNOWN["crc32"]},
        {"x-amz-checksum-crc32": ENCODED["crc64nvme"]},
        {"x-amz-sdk-checksum-algorithm": "CRC32"},
        {"x-amz-sdk-checksum-algorithm": "CRC32", "x-amz-checksum-sha1": ENCODED["sha1"]},
    ],
)
def test_announcements_that_cannot_be(headers: dict[str, str]) -> None:
    with pytest.raises(RequestError) as caught:
        announced_checksums(headers)
    assert type(caught.value) is RequestError


def test_a_checksum_given_twice() -> None:
    headers = CIMultiDict({"x-amz-checksum-crc32": ENCODED["crc32"]})
    headers.add("X-Amz-Checksum-Crc32", b64encode(bytes(4)).decode())
    with pytest.raises(RequestError):
        announced_checksums(headers)


def test_headers_that_only_speak_of_checksums() -> None:
    headers = {
        "x-amz-checksum-mode": "ENABLED",
        "x-amz-checksum-type": "FULL_OBJECT",
        "x-amz-checksum-algorithm": "CRC32",
    }
    assert announced_checksums(headers) == AnnouncedChecksums()
    checked({}, BODY)


@given(st.lists(st.binary(max_size=50), max_size=8))
def test_pieces_add_up(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    checksums = Checksums(AnnouncedChecksums(), also=KNOWN)
    at_once = Checksums(AnnouncedChecksums(), also=KNOWN)
    at_once.update(whole)
    for piece in pieces:
        checksums.update(piece)
    assert {name: checksums.digest(name) for name in KNOWN} == {name: at_once.digest(name) for name in KNOWN}
    assert checksums.digest("crc32") == zlib.crc32(whole).to_bytes(4, "big")
    assert checksums.digest("md5") == hashlib.md5(whole).digest()
