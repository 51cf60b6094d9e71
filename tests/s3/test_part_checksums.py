"""Checksums of objects in parts, against those of the whole."""

from __future__ import annotations

import hashlib
import zlib
from base64 import b64encode
from itertools import pairwise

import pytest
from awscrt import checksums as crt
from hypothesis import given
from hypothesis import strategies as st

from objectcache.errors import InvalidArgumentError
from objectcache.s3.checksums import ALGORITHMS
from objectcache.s3.part_checksums import COMPOSITE, FULL_OBJECT, check_kind, whole_checksum


def digest(algorithm: str, data: bytes) -> bytes:
    if algorithm in ("sha1", "sha256"):
        return hashlib.new(algorithm, data).digest()
    value = {"crc32": zlib.crc32, "crc32c": crt.crc32c, "crc64nvme": crt.crc64nvme}[algorithm](data)
    return int(value).to_bytes(ALGORITHMS[algorithm])


def encoded(algorithm: str, data: bytes) -> str:
    return b64encode(digest(algorithm, data)).decode()


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    data = draw(st.binary(min_size=1, max_size=300))
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=5)))
    return data, [data[begin:end] for begin, end in pairwise([0, *cuts, len(data)])]


@pytest.mark.parametrize("algorithm", ["crc32", "crc32c", "crc64nvme"])
@given(body=bodies())
def test_a_crc_of_all_is_made_of_those_of_the_parts(algorithm: str, body: tuple[bytes, list[bytes]]) -> None:
    data, parts = body
    sums = [(encoded(algorithm, part), len(part)) for part in parts]
    assert whole_checksum(algorithm, FULL_OBJECT, sums) == encoded(algorithm, data)


@pytest.mark.parametrize("algorithm", ["crc32", "crc32c", "sha1", "sha256"])
@given(body=bodies())
def test_a_checksum_of_checksums(algorithm: str, body: tuple[bytes, list[bytes]]) -> None:
    _, parts = body
    together = encoded(algorithm, b"".join(digest(algorithm, part) for part in parts))
    sums = [(encoded(algorithm, part), len(part)) for part in parts]
    assert whole_checksum(algorithm, COMPOSITE, sums) == f"{together}-{len(parts)}"


def test_large_parts() -> None:
    size = 5 << 20
    sums = [(encoded("crc64nvme", bytes(size)), size), (encoded("crc64nvme", b"end"), 3)]
    assert whole_checksum("crc64nvme", FULL_OBJECT, sums) == encoded("crc64nvme", bytes(size) + b"end")


@pytest.mark.parametrize(
    ("algorithm", "kind", "found"),
    [
        ("crc32", "", COMPOSITE),
        ("crc32", "full_object", FULL_OBJECT),
        ("crc32c", "COMPOSITE", COMPOSITE),
        ("crc64nvme", "", FULL_OBJECT),
        ("sha256", "", COMPOSITE),
    ],
)
def test_kinds(algorithm: str, kind: str, found: str) -> None:
    assert check_kind(algorithm, kind) == found


@pytest.mark.parametrize(
    ("algorithm", "kind"), [("crc64nvme", COMPOSITE), ("sha1", FULL_OBJECT), ("crc32", "HALF"), ("md5", ""), ("x", "")]
)
def test_kinds_that_cannot_be(algorithm: str, kind: str) -> None:
    with pytest.raises(InvalidArgumentError):
        check_kind(algorithm, kind)
