"""What a request says about how its body is sent and signed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum

from objectcache.errors import InvalidArgumentError
from objectcache.s3.headers import header

UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
_SHA256 = re.compile("[0-9a-fA-F]{64}")


class PayloadKind(Enum):
    """Values are those of x-amz-content-sha256, but for HASH."""

    HASH = "a SHA-256"
    UNSIGNED = UNSIGNED_PAYLOAD
    SIGNED_CHUNKS = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
    SIGNED_CHUNKS_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
    UNSIGNED_CHUNKS_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"

    @property
    def is_chunked(self) -> bool:
        """The body is in `aws-chunked` encoding."""
        return self not in (PayloadKind.HASH, PayloadKind.UNSIGNED)

    @property
    def is_signed(self) -> bool:
        """In chunks whose signatures have to be checked."""
        return self in (PayloadKind.SIGNED_CHUNKS, PayloadKind.SIGNED_CHUNKS_TRAILER)


def payload_kind(content_sha256: str) -> PayloadKind:
    """The kind that a value of x-amz-content-sha256 means. Raises InvalidArgumentError."""
    if _SHA256.fullmatch(content_sha256):
        return PayloadKind.HASH
    for kind in PayloadKind:
        if kind is not PayloadKind.HASH and kind.value == content_sha256:
            return kind
    served = ", ".join(kind.value for kind in PayloadKind)
    raise InvalidArgumentError(f"x-amz-content-sha256 is {content_sha256!r}, and must be one of {served}")


def unsigned_payload_kind(headers: Mapping[str, str]) -> PayloadKind:
    """The kind where no signature covers the body: anonymous requests, and URLs presigned without a digest.

    Clients that add checksums send `aws-chunked` without x-amz-content-sha256 then. A signed kind is refused:
    InvalidArgumentError.
    """
    value = header(headers, "x-amz-content-sha256")
    if value is None:
        codings = (header(headers, "content-encoding") or "").split(",")
        chunked = any(coding.strip().lower() == "aws-chunked" for coding in codings)
        return PayloadKind.UNSIGNED_CHUNKS_TRAILER if chunked else PayloadKind.UNSIGNED
    kind = payload_kind(value)
    if kind.is_signed:
        raise InvalidArgumentError(f"x-amz-content-sha256 {value} needs a signed request")
    return kind
