"""Requests and bodies as clients make them: signed by botocore's own signers, apart from the code under test."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials

ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET_KEY = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
EMPTY_SHA256 = hashlib.sha256().hexdigest()
EXAMPLE_TIMESTAMP = "20130524T000000Z"
EXAMPLE_TIME_S = 1369353600.0
EXAMPLE_SCOPE = "20130524/us-east-1/s3/aws4_request"


@dataclass(frozen=True)
class Request:
    """What a server sees."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]

    def with_headers(self, **changed: str | None) -> Request:
        """`x_amz_date` stands for x-amz-date; None takes a header away."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        for name, value in changed.items():
            headers.pop(name.replace("_", "-"), None)
            if value is not None:
                headers[name.replace("_", "-")] = value
        return replace(self, headers=headers)


def signed_by_botocore(
    method: str, url: str, headers: Mapping[str, str], body: bytes = b"", region: str = "us-east-1"
) -> Request:
    request = AWSRequest(method=method, url=url, headers=dict(headers), data=body)
    S3SigV4Auth(BotoCredentials(ACCESS_KEY, SECRET_KEY), "s3", region).add_auth(request)
    parts = urlsplit(url)
    return Request(method, parts.path, parts.query, {"Host": parts.netloc, **dict(request.headers.items())})


def from_url(method: str, url: str, headers: Mapping[str, str] | None = None) -> Request:
    parts = urlsplit(url)
    return Request(method, parts.path, parts.query, {"Host": parts.netloc, **(headers or {})})


def chunk_signature(text: str, timestamp: str = EXAMPLE_TIMESTAMP) -> str:
    signer = S3SigV4Auth(BotoCredentials(ACCESS_KEY, SECRET_KEY), "s3", "us-east-1")
    request: Any = SimpleNamespace(context={"timestamp": timestamp})
    signature: str = signer.signature(text, request)
    return signature


def signed_body(chunks: Iterable[bytes], seed: str, trailers: Mapping[str, str] | None = None) -> bytes:
    """`aws-chunked`, signed; the last, empty chunk is added."""
    wire, previous = b"", seed
    for chunk in (*chunks, b""):
        digest = hashlib.sha256(chunk).hexdigest()
        previous = chunk_signature(
            f"AWS4-HMAC-SHA256-PAYLOAD\n{EXAMPLE_TIMESTAMP}\n{EXAMPLE_SCOPE}\n{previous}\n{EMPTY_SHA256}\n{digest}"
        )
        wire += f"{len(chunk):x};chunk-signature={previous}\r\n".encode()
        wire += chunk + b"\r\n" if chunk else b""
    if trailers:
        digest = hashlib.sha256("".join(f"{name}:{value}\n" for name, value in trailers.items()).encode()).hexdigest()
        signature = chunk_signature(
            f"AWS4-HMAC-SHA256-TRAILER\n{EXAMPLE_TIMESTAMP}\n{EXAMPLE_SCOPE}\n{previous}\n{digest}"
        )
        wire += "".join(f"{name}:{value}\r\n" for name, value in trailers.items()).encode()
        wire += f"x-amz-trailer-signature:{signature}\r\n".encode()
    return wire + b"\r\n"


def plain_body(chunks: Iterable[bytes], trailers: Mapping[str, str] | None = None) -> bytes:
    """`aws-chunked`, not signed."""
    wire = b"".join(f"{len(chunk):X}\r\n".encode() + chunk + b"\r\n" for chunk in chunks) + b"0\r\n"
    return wire + "".join(f"{name}:{value}\r\n" for name, value in (trailers or {}).items()).encode() + b"\r\n"
