"""How a body is sent, read from headers."""

from __future__ import annotations

import pytest

from objectcache.errors import InvalidArgumentError
from objectcache.s3 import PayloadKind, payload_kind, unsigned_payload_kind
from tests.s3.wire import EMPTY_SHA256


@pytest.mark.parametrize(
    ("value", "kind", "is_chunked", "is_signed"),
    [
        (EMPTY_SHA256, PayloadKind.HASH, False, False),
        (EMPTY_SHA256.upper(), PayloadKind.HASH, False, False),
        ("UNSIGNED-PAYLOAD", PayloadKind.UNSIGNED, False, False),
        ("STREAMING-AWS4-HMAC-SHA256-PAYLOAD", PayloadKind.SIGNED_CHUNKS, True, True),
        ("STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER", PayloadKind.SIGNED_CHUNKS_TRAILER, True, True),
        ("STREAMING-UNSIGNED-PAYLOAD-TRAILER", PayloadKind.UNSIGNED_CHUNKS_TRAILER, True, False),
    ],
)
def test_kinds(value: str, kind: PayloadKind, is_chunked: bool, is_signed: bool) -> None:
    assert payload_kind(value) is kind
    assert (kind.is_chunked, kind.is_signed) == (is_chunked, is_signed)


@pytest.mark.parametrize("value", ["", "a SHA-256", "unsigned-payload", EMPTY_SHA256[1:], "g" * 64])
def test_no_kind(value: str) -> None:
    with pytest.raises(InvalidArgumentError):
        payload_kind(value)


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        ({}, PayloadKind.UNSIGNED),
        ({"Content-Encoding": "gzip"}, PayloadKind.UNSIGNED),
        ({"Content-Encoding": "gzip, AWS-chunked"}, PayloadKind.UNSIGNED_CHUNKS_TRAILER),
        ({"Content-Encoding": "aws-chunked", "x-amz-content-sha256": "UNSIGNED-PAYLOAD"}, PayloadKind.UNSIGNED),
        ({"X-Amz-Content-SHA256": EMPTY_SHA256}, PayloadKind.HASH),
        ({"X-Amz-Content-SHA256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"}, None),
    ],
)
def test_bodies_without_a_signature(headers: dict[str, str], kind: PayloadKind | None) -> None:
    if kind is not None:
        assert unsigned_payload_kind(headers) is kind
        return
    with pytest.raises(InvalidArgumentError):
        unsigned_payload_kind(headers)
