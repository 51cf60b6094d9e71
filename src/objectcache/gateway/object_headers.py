"""Headers of plain objects: what a request says of one, what a response tells, and the conditions in between."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import formatdate, parsedate_to_datetime
from typing import Any
from urllib.parse import unquote

from objectcache.errors import InvalidArgumentError, NotSupportedError, PreconditionFailedError, RangeError
from objectcache.stores import ObjectInfo

STANDARD_HEADERS = (
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
)
USER_PREFIX = "x-amz-meta-"
CHECKSUM_PREFIX = "x-amz-checksum-"
DEFAULT_TYPE = "binary/octet-stream"
_UNSERVED = {
    "x-amz-tagging": "tags",
    "x-amz-website-redirect-location": "redirects",
    "x-amz-object-lock-mode": "object locks",
    "x-amz-object-lock-retain-until-date": "object locks",
    "x-amz-object-lock-legal-hold": "object locks",
    "x-amz-server-side-encryption": "encryption",
    "x-amz-server-side-encryption-customer-algorithm": "encryption",
}
OWN_PREFIX = "x-kv-"
_RANGE = re.compile(r"bytes=([0-9]*)-([0-9]*)")
_NOT_IN_VALUES = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_MOST_DIGITS = 18
"""Positions with more are behind the end of anything."""


class NotModified(Exception):  # noqa: N818 - not an error: the client has it already
    """The answer is 304, about the object `info`."""

    def __init__(self, info: ObjectInfo) -> None:
        super().__init__()
        self.info = info


@dataclass(frozen=True, slots=True)
class WriteConditions:
    """What must hold for a write: that nothing is there (`if_absent`), or the object with an ETag ("*": any)."""

    if_absent: bool = False
    if_match: str = ""

    def __bool__(self) -> bool:
        return self.if_absent or bool(self.if_match)

    def how(self) -> dict[str, Any]:
        """As arguments of `Store.upload`."""
        return {"if_absent": self.if_absent, "if_match": self.if_match}

    def check(self, info: ObjectInfo) -> None:
        """Against what is there. Raises PreconditionFailedError."""
        if self.if_absent:
            raise PreconditionFailedError("the object is there already")
        if self.if_match not in ("", "*", info.etag):
            raise PreconditionFailedError(f"the object's ETag is {info.etag}")


def is_header_value(text: str) -> bool:
    """Whether it can be sent as a header, and only as that."""
    return not _NOT_IN_VALUES.search(text)


def title_case(name: str) -> str:
    """`content-type` as HTTP writes it: `Content-Type`."""
    return "-".join(map(str.capitalize, name.split("-")))


def metadata_of(headers: Mapping[str, str]) -> dict[str, str]:
    """What an upload's headers say is to be kept. Raises NotSupportedError for what would be lost."""
    kept: dict[str, str] = {}
    for name, value in headers.items():
        lower = name.lower()
        if lower in _UNSERVED:
            raise NotSupportedError(f"{_UNSERVED[lower]} are not served here: leave out {name}")
        if lower == "content-encoding":
            value = ", ".join(coding for coding in map(str.strip, value.split(",")) if coding != "aws-chunked")
        if (lower in STANDARD_HEADERS and value) or lower.startswith(USER_PREFIX):
            kept[lower] = f"{kept[lower]},{value}" if lower in kept else value
    return kept


def own_metadata(info: ObjectInfo) -> dict[str, str]:
    """What an object's metadata says of its bytes, and not at a client's wish: it goes with them."""
    return {name: value for name, value in info.metadata.items() if name.startswith((OWN_PREFIX, CHECKSUM_PREFIX))}


def told_of(info: ObjectInfo, *, checksums: bool) -> dict[str, str]:
    """Headers of a response about an object; with its `checksums`, if the whole of it is asked for."""
    told = {
        "ETag": f'"{info.etag}"',
        "Last-Modified": formatdate(info.modified_s, usegmt=True),
        "Accept-Ranges": "bytes",
        "Content-Type": DEFAULT_TYPE,
    }
    for name, value in info.metadata.items():
        if name.startswith(OWN_PREFIX):
            continue
        if checksums or not name.startswith(CHECKSUM_PREFIX):
            told[title_case(name) if name in STANDARD_HEADERS else name] = value
    return told


def byte_range(header: str | None, size_bytes: int) -> tuple[int, int] | None:
    """[first, stop) of a Range header; None when the whole object is to be sent. Raises RangeError.

    What is no byte range, or more than one, does not count, as HTTP wants it.
    """
    if header is None:
        return None
    found = _RANGE.fullmatch(header.strip())
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        first, stop = max(0, size_bytes - _position(found[2])), size_bytes
    else:
        first, stop = _position(found[1]), min(size_bytes, _position(found[2]) + 1 if found[2] else size_bytes)
        if found[2] and _position(found[2]) < first:
            return None
    if first >= stop:
        raise RangeError(f"the range {header!r} lies outside the object's {size_bytes} bytes")
    return first, stop


def copied_range(header: str, size_bytes: int) -> tuple[int, int]:
    """[first, stop) of an x-amz-copy-source-range: both ends are given. Raises InvalidArgumentError, RangeError."""
    found = _RANGE.fullmatch(header.strip())
    if found is None or not found[1] or not found[2]:
        raise InvalidArgumentError("x-amz-copy-source-range must read bytes=first-last")
    first, last = _position(found[1]), _position(found[2])
    if not first <= last:
        raise InvalidArgumentError("x-amz-copy-source-range must read bytes=first-last, first not after last")
    if last >= size_bytes:
        raise RangeError(f"x-amz-copy-source-range must lie within the source's {size_bytes} bytes")
    return first, last + 1


def _position(digits: str) -> int:
    significant = digits.lstrip("0")
    return int(significant or "0") if len(significant) <= _MOST_DIGITS else 10**_MOST_DIGITS


def if_range_holds(headers: Mapping[str, str], info: ObjectInfo) -> bool:
    """Whether a Range counts: not, if If-Range names another object than this, which the client has a part of."""
    wanted = headers.get("If-Range")
    if wanted is None:
        return True
    if wanted.strip().startswith(('"', "W/")) or names_etag(wanted, info.etag):
        return names_etag(wanted, info.etag, weakly=False)
    since_s = _http_date_s(wanted)
    return since_s is not None and int(info.modified_s) == since_s


def check_read(headers: Mapping[str, str], info: ObjectInfo, *, prefix: str = "") -> None:
    """The conditions of a GET, HEAD or (with `prefix` "x-amz-copy-source-") the source of a copy.

    Raises PreconditionFailedError, NotModified.
    """
    match, none_match = headers.get(f"{prefix}If-Match"), headers.get(f"{prefix}If-None-Match")
    # What is no date does not count.
    modified_s, unmodified_s = (
        _http_date_s(headers.get(f"{prefix}{name}", "")) for name in ("If-Modified-Since", "If-Unmodified-Since")
    )
    if match is not None:
        if not names_etag(match, info.etag, weakly=False):
            raise PreconditionFailedError(f"the object's ETag is {info.etag}")
    elif unmodified_s is not None and int(info.modified_s) > unmodified_s:
        raise PreconditionFailedError("the object was modified since")
    if none_match is not None:
        if not names_etag(none_match, info.etag):
            return
    elif modified_s is None or int(info.modified_s) > modified_s:
        return
    if prefix:
        raise PreconditionFailedError("the source is as it was")
    raise NotModified(info)


def write_conditions(headers: Mapping[str, str]) -> WriteConditions:
    """Those of a write. Raises NotSupportedError."""
    none_match, match = headers.get("If-None-Match"), headers.get("If-Match")
    if none_match is not None and none_match.strip() != "*":
        raise NotSupportedError("a write can be conditional on If-None-Match: * and on If-Match: ETAG")
    if match is not None and ("," in match or none_match is not None):
        raise NotSupportedError("a write can be conditional on one ETag: If-Match: ETAG")
    return WriteConditions(none_match is not None, "" if match is None else plain_etag(match))


def names_etag(header: str, etag: str, *, weakly: bool = True) -> bool:
    """Whether an If-Match or If-None-Match header means an object with `etag`; W/"…" does so only `weakly`."""
    if header.strip() == "*":
        return True
    tags = [tag.strip() for tag in header.split(",")]
    return any(plain_etag(tag) == etag for tag in tags if weakly or not tag.startswith("W/"))


def plain_etag(text: str) -> str:
    return text.strip().removeprefix("W/").strip('"')


def _http_date_s(text: str) -> float | None:
    """Unix time, in whole seconds as HTTP has it; None for what is no date."""
    try:
        date = parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def copy_source(text: str) -> tuple[str, str]:
    """Bucket and key of an x-amz-copy-source, which is percent-encoded. Raises InvalidArgumentError."""
    path, _, version = text.partition("?versionId=")
    bucket, slash, key = unquote(path).removeprefix("/").partition("/")
    if not bucket or not slash or not key or version not in ("", "null"):
        raise InvalidArgumentError(f"x-amz-copy-source must be bucket/key, not {text[:200]!r}")
    return bucket, key
