"""Signature version 4 over exactly what stands on the wire: botocore's algorithm, with our choice of what it covers.

Apart from `signing`, which imports this when a first request is signed: botocore.auth takes 0.13 s to import.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, Protocol
from urllib.parse import parse_qsl, quote_from_bytes, unquote_to_bytes

from botocore.auth import SIGNED_HEADERS_BLACKLIST, S3SigV4Auth
from botocore.awsrequest import AWSRequest

SERVICE = "s3"
NEVER_SIGNED = frozenset(SIGNED_HEADERS_BLACKLIST)
"""Headers that proxies and HTTP libraries change or add."""


class KeyPair(Protocol):
    @property
    def access_key(self) -> str: ...

    @property
    def secret_key(self) -> str: ...


class Signer(S3SigV4Auth):  # type: ignore[misc]  # botocore has no types
    """One request's signer. `path` and `query` are taken as they are, `headers` are all that is signed.

    `payload` is the body's digest where `headers` have no x-amz-content-sha256; `timestamp` is as in x-amz-date.
    """

    def __init__(
        self,
        keys: KeyPair,
        region: str,
        timestamp: str,
        method: str,
        path: str,
        query: str,
        headers: Iterable[tuple[str, str]],
        payload: str,
    ) -> None:
        super().__init__(keys, SERVICE, region)
        self._path = path
        self._query = query
        self._payload = payload
        self._request = AWSRequest(method=method, url="http://s3/")
        self._request.context["timestamp"] = timestamp
        for name, value in headers:
            self._request.headers[name] = value

    def sign(self) -> str:
        """The signature, 64 hex digits."""
        text = self.string_to_sign(self._request, self.canonical_request(self._request))
        signature: str = self.signature(text, self._request)
        return signature

    def authorization(self, signature: str) -> str:
        """The Authorization header."""
        header: str = self._inject_signature_to_request(self._request, signature).headers["Authorization"]
        return header

    # What botocore would take from the URL, a body and all headers:

    def _normalize_url_path(self, path: str) -> str:
        return self._path

    def canonical_query_string(self, request: Any) -> Any:
        return self._canonical_query_string_url(SimpleNamespace(query=self._query))

    def headers_to_sign(self, request: Any) -> Any:
        return request.headers

    def payload(self, request: Any) -> str:
        return self._payload


class _SigningKey(S3SigV4Auth):  # type: ignore[misc]
    """Stops one step short of a signature: at the key that it would be made with."""

    def _sign(self, key: bytes, msg: str, hex: bool = False) -> Any:
        return key if hex else super()._sign(key, msg)


def signing_key(keys: KeyPair, region: str, timestamp: str) -> bytes:
    """The 32 bytes derived from the secret for one day, region and service."""
    request = SimpleNamespace(context={"timestamp": timestamp})
    key: bytes = _SigningKey(keys, SERVICE, region).signature("", request)
    return key


def spellings(path: str, query: str) -> list[tuple[str, str]]:
    """`path` and `query` as sent, then (where that differs) in S3's canonical encoding, which some clients sign.

    Both name the same object: a slash that is encoded stays so.
    """
    parts = (quote_from_bytes(unquote_to_bytes(part), safe="-_.~") for part in path.split("/"))
    pairs = parse_qsl(query, keep_blank_values=True, encoding="utf-8", errors="surrogateescape")
    encoded = "&".join(f"{_encode(name)}={_encode(value)}" for name, value in pairs)
    canonical = ("/".join(parts), encoded)
    return [(path, query)] if canonical == (path, query) else [(path, query), canonical]


def _encode(text: str) -> str:
    return quote_from_bytes(text.encode("utf-8", "surrogateescape"), safe="-_.~")
