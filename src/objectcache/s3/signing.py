"""Signature version 4: who sent a request, and that it is what they signed.

The algorithm is botocore's (`sigv4`); here is what of a request it is applied to, and what else S3 asks of it.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from objectcache.errors import (
    AccessDeniedError,
    InvalidAccessKeyIdError,
    RequestTimeTooSkewedError,
    SignatureDoesNotMatchError,
)
from objectcache.s3.chunked import ChunkSigning
from objectcache.s3.headers import lowered
from objectcache.s3.payload import UNSIGNED_PAYLOAD, PayloadKind

MAX_SKEW_S = 15 * 60


@dataclass(frozen=True, slots=True)
class Credentials:
    access_key: str
    secret_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """What a request says of its signature, well-formed but unverified: made by `parse_authorization`."""

    access_key: str
    region: str
    timestamp: str
    """As in x-amz-date: `20130524T000000Z`."""
    time_s: float
    expires_s: int | None
    """Of a presigned URL, from `time_s` on; None: signed in headers."""
    signature: str
    payload: PayloadKind
    content_sha256: str
    """As sent: the body's SHA-256 where `payload` is HASH."""
    method: str
    path: str
    query: str
    """Without the signature."""
    headers: tuple[tuple[str, str], ...]
    """Those that are signed, with names in lower case."""

    @property
    def scope(self) -> str:
        return f"{self.timestamp[:8]}/{self.region}/s3/aws4_request"

    def chunk_signing(self, secret_key: str) -> ChunkSigning:
        """What checks the chunks of this request's body. Only of use once `verify` has passed."""
        from objectcache.s3.sigv4 import signing_key

        key = signing_key(secret_key, self.region, self.timestamp[:8])
        return ChunkSigning(key, self.scope, self.timestamp, self.signature)


def verify(signed: SignedRequest, secret_key: str | None, now_s: float) -> None:
    """Returns if the owner of `secret_key` (None: no such access key) signed this request, and lately.

    Raises InvalidAccessKeyIdError, RequestTimeTooSkewedError, AccessDeniedError (a presigned URL out of its time) or
    SignatureDoesNotMatchError.
    """
    if secret_key is None:
        raise InvalidAccessKeyIdError(f"there is no access key {signed.access_key!r} here")
    _check_time(signed, now_s)
    from objectcache.s3.sigv4 import sign

    quickly = sign(
        secret_key,
        signed.region,
        signed.timestamp,
        signed.method,
        signed.path,
        signed.query,
        signed.headers,
        signed.content_sha256,
    )
    if hmac.compare_digest(quickly.signature, signed.signature):
        return
    from objectcache.s3.sigv4 import Signer, spellings

    keys = Credentials(signed.access_key, secret_key)
    for path, query in spellings(signed.path, signed.query):
        signer = Signer(
            keys, signed.region, signed.timestamp, signed.method, path, query, signed.headers, signed.content_sha256
        )
        if hmac.compare_digest(signer.sign(), signed.signature):
            return
    raise SignatureDoesNotMatchError(
        f"the signature of {signed.method} {signed.path} does not match: the secret of {signed.access_key} is another, "
        "or path, query or signed headers (Host too) were changed on their way"
    )


def sign_headers(
    credentials: Credentials,
    method: str,
    host: str,
    target: str,
    headers: Mapping[str, str],
    *,
    payload: bytes | None,
    region: str = "us-east-1",
    now_s: float | None = None,
) -> dict[str, str]:
    """The headers to add to a request. All of `headers` are signed, but for those that proxies change.

    `host` as in the Host header (with a port that is not the scheme's own), `target` the path and query of the request
    line, both in S3's canonical encoding. `payload` None leaves the body out of the signature.
    """
    from objectcache.s3.sigv4 import NEVER_SIGNED, sign

    timestamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_s))
    content_sha256 = UNSIGNED_PAYLOAD if payload is None else hashlib.sha256(payload).hexdigest()
    added = {"X-Amz-Date": timestamp, "X-Amz-Content-SHA256": content_sha256}
    if credentials.session_token:
        added["X-Amz-Security-Token"] = credentials.session_token
    sent = {name: value for name, value in lowered(headers) if name not in NEVER_SIGNED}
    sent |= {"host": host} | dict(lowered(added))
    path, _, query = target.partition("?")
    made = sign(credentials.secret_key, region, timestamp, method, path, query, sent.items(), content_sha256)
    added["Authorization"] = made.authorization(credentials.access_key)
    return added


def _check_time(signed: SignedRequest, now_s: float) -> None:
    ahead_s = signed.time_s - now_s
    if signed.expires_s is None:
        if abs(ahead_s) > MAX_SKEW_S:
            raise RequestTimeTooSkewedError(
                f"the request was signed at {signed.timestamp}, {abs(ahead_s):.0f} s "
                f"{'after' if ahead_s > 0 else 'before'} this server's time; {MAX_SKEW_S} s are allowed"
            )
    elif ahead_s > MAX_SKEW_S:
        raise AccessDeniedError(f"Request is not yet valid: its time begins at {signed.timestamp}")
    elif -ahead_s > signed.expires_s:
        raise AccessDeniedError(f"Request has expired: it was signed at {signed.timestamp} for {signed.expires_s} s")
