"""Reads a request's signature, from its headers or a presigned URL, and checks its form."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote, unquote_plus

from objectcache.errors import (
    AccessDeniedError,
    AuthorizationHeaderMalformedError,
    AuthorizationQueryParametersError,
    InvalidArgumentError,
    MissingSecurityHeaderError,
    RequestError,
)
from objectcache.s3.headers import lowered
from objectcache.s3.payload import UNSIGNED_PAYLOAD, payload_kind, unsigned_payload_kind
from objectcache.s3.signing import SignedRequest

ALGORITHM = "AWS4-HMAC-SHA256"
MAX_EXPIRES_S = 7 * 24 * 3600
_VERSION_2 = f"signature version 2 is not served, use {ALGORITHM}"
_REGION = re.compile("[A-Za-z0-9_.-]{1,64}")
_TIMESTAMP = re.compile("([0-9]{4})([0-9]{2})([0-9]{2})T([0-9]{2})([0-9]{2})([0-9]{2})Z")
_SIGNATURE = re.compile("[0-9a-f]{64}")
_PRESIGNED = ("X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders")
_QUERY_SIGNATURE = "X-Amz-Signature"
# Of a request line they would let one canonical request look like another; HTTP parsers let none through.
_NOT_IN_TARGET = re.compile("[\x00-\x20\x7f\ud800-\udfff]")
_SUBRESOURCE = re.compile("[a-z-]*")
_SPELT_OUT = re.compile("[A-Za-z0-9/._-]*")
_SURROGATE = re.compile("[\ud800-\udfff]")  # what was no UTF-8 in a header

Pairs = list[tuple[str, str]]
_Malformed = type[AuthorizationHeaderMalformedError] | type[AuthorizationQueryParametersError]


class _Scope(NamedTuple):
    access_key: str
    day: str
    region: str


def parse_authorization(method: str, raw_path: str, raw_query: str, headers: Mapping[str, str]) -> SignedRequest | None:
    """The request's signature, still to be verified; None: the request is anonymous.

    Path and query exactly as on the request line, `headers` all that were sent.

    Raises AuthorizationHeaderMalformedError, AuthorizationQueryParametersError, MissingSecurityHeaderError,
    InvalidArgumentError, AccessDeniedError (something is sent, but not signed) and RequestError (signature version 2).
    """
    sent = lowered(headers)
    if _SUBRESOURCE.fullmatch(raw_query) and _SPELT_OUT.fullmatch(raw_path):
        # As most are: nothing in the query, and nothing that may not be there.
        in_header = [value for name, value in sent if name == "authorization"]
        return _from_header(method, raw_path, raw_query, sent, in_header) if in_header else None
    parts = [part.partition("=") for part in raw_query.split("&") if part]
    fields = [(unquote_plus(name), unquote_plus(value)) for name, _, value in parts]
    in_header = [value for name, value in sent if name == "authorization"]
    in_query = {name for name, _ in fields} & {_QUERY_SIGNATURE, "X-Amz-Algorithm", "X-Amz-Credential"}
    if in_header and in_query:
        raise InvalidArgumentError("only one way to sign is allowed: the Authorization header or X-Amz-… in the query")
    if not in_header and not in_query:
        if {"AWSAccessKeyId", "Signature"} <= {name for name, _ in fields}:
            raise RequestError(_VERSION_2)
        return None
    if _NOT_IN_TARGET.search(raw_path) or _NOT_IN_TARGET.search(raw_query):
        raise InvalidArgumentError("the path or query of a signed request holds spaces or control characters")
    if in_header:
        return _from_header(method, raw_path, raw_query, sent, in_header)
    return _from_query(method, raw_path, raw_query, sent, fields)


def _from_header(method: str, path: str, query: str, sent: Pairs, values: list[str]) -> SignedRequest:
    malformed = AuthorizationHeaderMalformedError
    scheme, _, rest = values[0].strip().partition(" ")
    if len(values) > 1:
        raise malformed("the Authorization header is sent more than once")
    if scheme == "AWS":
        raise RequestError(_VERSION_2)
    if scheme != ALGORITHM:
        raise InvalidArgumentError(f"authorization by {scheme!r} is not served, use {ALGORITHM}")
    items = [item.strip().partition("=") for item in rest.split(",")]
    named = {name: value for name, _, value in items}
    if len(items) != 3 or named.keys() != {"Credential", "SignedHeaders", "Signature"}:
        raise malformed(f"the Authorization header must read {ALGORITHM} Credential=…, SignedHeaders=…, Signature=…")
    scope = _scope(named["Credential"], malformed)
    timestamp = _timestamp(sent)
    time_s = _time_s(timestamp, scope.day, malformed)
    signed = _signed_headers(named["SignedHeaders"], sent, malformed)
    digest = _only("x-amz-content-sha256", sent)
    if digest is None:
        raise MissingSecurityHeaderError("a signed request needs x-amz-content-sha256: a SHA-256, or UNSIGNED-PAYLOAD")
    return SignedRequest(
        access_key=scope.access_key,
        region=scope.region,
        timestamp=timestamp,
        time_s=time_s,
        expires_s=None,
        signature=_signature(named["Signature"], malformed),
        payload=payload_kind(digest),
        content_sha256=digest,
        method=method,
        path=path or "/",
        query=query,
        headers=signed,
    )


def _from_query(method: str, path: str, query: str, sent: Pairs, fields: Pairs) -> SignedRequest:
    malformed = AuthorizationQueryParametersError
    named: dict[str, str] = {}
    for name, value in fields:
        if name in (*_PRESIGNED, _QUERY_SIGNATURE, "X-Amz-Content-Sha256"):
            if name in named:
                raise malformed(f"{name} is given more than once")
            named[name] = value
    missing = {*_PRESIGNED, _QUERY_SIGNATURE} - named.keys()
    if missing:
        raise malformed(
            f"a presigned URL needs {', '.join(_PRESIGNED)} and {_QUERY_SIGNATURE}: {min(missing)} is not there"
        )
    if named["X-Amz-Algorithm"] != ALGORITHM:
        raise malformed(f"X-Amz-Algorithm must be {ALGORITHM}")
    expires = named["X-Amz-Expires"]
    if not re.fullmatch("[0-9]{1,9}", expires) or not 1 <= int(expires) <= MAX_EXPIRES_S:
        raise malformed(f"X-Amz-Expires must be a number of seconds in 1..{MAX_EXPIRES_S}, not {expires!r}")
    scope = _scope(named["X-Amz-Credential"], malformed)
    timestamp = named["X-Amz-Date"]
    time_s = _time_s(timestamp, scope.day, malformed)
    signed = _signed_headers(named["X-Amz-SignedHeaders"], sent, malformed)
    digest = _only("x-amz-content-sha256", sent) or named.get("X-Amz-Content-Sha256")
    kind = payload_kind(digest) if digest else unsigned_payload_kind(dict(sent))
    return SignedRequest(
        access_key=scope.access_key,
        region=scope.region,
        timestamp=timestamp,
        time_s=time_s,
        expires_s=int(expires),
        signature=_signature(named[_QUERY_SIGNATURE], malformed),
        payload=kind,
        content_sha256=digest or UNSIGNED_PAYLOAD,
        method=method,
        path=path or "/",
        query="&".join(field for field in query.split("&") if unquote(field.partition("=")[0]) != _QUERY_SIGNATURE),
        headers=signed,
    )


@lru_cache(maxsize=256)
def _scope(credential: str, malformed: _Malformed) -> _Scope:
    access_key, *scope = credential.rsplit("/", 4)
    if len(scope) != 4 or not access_key or not _REGION.fullmatch(scope[1]):
        raise malformed(f"the credential must read <access key>/<date>/<region>/s3/aws4_request, not {credential!r}")
    day, region, service, end = scope
    if service != "s3" or end != "aws4_request":
        raise malformed(f"the credential's scope must end in s3/aws4_request, not {service}/{end}")
    return _Scope(access_key, day, region)


def _signature(text: str, malformed: _Malformed) -> str:
    if not _SIGNATURE.fullmatch(text):
        raise malformed("a signature is 64 hexadecimal digits in lower case")
    return text


def _timestamp(sent: Pairs) -> str:
    """x-amz-date, or Date in its form."""
    timestamp = _only("x-amz-date", sent)
    if timestamp is not None:
        return timestamp
    try:
        date = parsedate_to_datetime(_only("date", sent) or "")
    except ValueError:
        raise AccessDeniedError("a signed request needs a valid x-amz-date or Date header") from None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")


@lru_cache(maxsize=64)
def _time_s(timestamp: str, scope_day: str, malformed: _Malformed) -> float:
    try:
        found = _TIMESTAMP.fullmatch(timestamp)
        if found is None:
            raise ValueError
        year, month, day, hour, minute, second = map(int, found.groups())
        time_s = datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp()
    except ValueError:
        raise malformed(f"the date must read like 20130524T000000Z, not {timestamp!r}") from None
    if scope_day != timestamp[:8]:
        raise malformed(f"the credential is for {scope_day!r}, the request of {timestamp[:8]}")
    return time_s


def _signed_headers(names: str, sent: Pairs, malformed: _Malformed) -> tuple[tuple[str, str], ...]:
    """The headers that are signed. Raises AccessDeniedError if others should be."""
    listed = _listed(names, malformed)
    present = {name for name, _ in sent}
    unsigned = sorted(name for name in present - listed if name.startswith("x-amz-"))
    if unsigned:
        raise AccessDeniedError(
            f"There were headers present in the request which were not signed: {', '.join(unsigned)}"
        )
    absent = sorted(listed - present)
    if absent:
        raise AccessDeniedError(f"headers were signed that did not arrive: {', '.join(absent)}")
    signed = tuple((name, value) for name, value in sent if name in listed)
    if any(_SURROGATE.search(value) for _, value in signed):
        raise InvalidArgumentError("a signed header is no UTF-8")
    return signed


@lru_cache(maxsize=64)
def _listed(names: str, malformed: _Malformed) -> frozenset[str]:
    listed = frozenset(names.split(";"))
    if "" in listed or names != names.lower():
        raise malformed("the signed headers are a list of names in lower case with semicolons between them")
    if "host" not in listed:
        raise AccessDeniedError("the Host header must be signed")
    return listed


def _only(name: str, sent: Pairs) -> str | None:
    """The value of a header that may be sent once."""
    values = [value.strip() for found, value in sent if found == name]
    if len(values) > 1:
        raise InvalidArgumentError(f"{name} is sent more than once")
    return values[0] if values else None
