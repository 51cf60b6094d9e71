"""Headers of plain objects: what a request says of one, what a response tells, and the conditions in between."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import formatdate, parsedate_to_datetime
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
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class NotModified(Exception):  # noqa: N818 - not an error: the client has it already
    """The answer is 304."""


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


def told_of(info: ObjectInfo, *, checksums: bool) -> dict[str, str]:
    """Headers of a response about an object; with its `checksums`, if the whole of it is asked for."""
    told = {
        "ETag": f'"{info.etag}"',
        "Last-Modified": formatdate(info.modified_s, usegmt=True),
        "Accept-Ranges": "bytes",
        "Content-Type": DEFAULT_TYPE,
    }
    for name, value in info.metadata.items():
        if name.startswith("x-kv-"):
            continue
        if checksums or not name.startswith(CHECKSUM_PREFIX):
            told["-".join(map(str.capitalize, name.split("-"))) if name in STANDARD_HEADERS else name] = value
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
        first, stop = max(0, size_bytes - int(found[2])), size_bytes
    else:
        first, stop = int(found[1]), min(size_bytes, int(found[2]) + 1 if found[2] else size_bytes)
        if found[2] and int(found[2]) < first:
            return None
    if first >= stop:
        raise RangeError(f"the range {header!r} lies outside the object's {size_bytes} bytes")
    return first, stop


def check_read(headers: Mapping[str, str], info: ObjectInfo, *, prefix: str = "") -> None:
    """The conditions of a GET, HEAD or (with `prefix` "x-amz-copy-source-") the source of a copy.

    Raises PreconditionFailedError, NotModified.
    """
    match, none_match = headers.get(f"{prefix}If-Match"), headers.get(f"{prefix}If-None-Match")
    modified, unmodified = headers.get(f"{prefix}If-Modified-Since"), headers.get(f"{prefix}If-Unmodified-Since")
    if match is not None:
        if not names_etag(match, info.etag):
            raise PreconditionFailedError(f"the object's ETag is {info.etag}")
    elif unmodified is not None and _is_later(info, unmodified):
        raise PreconditionFailedError("the object was modified since")
    if none_match is not None:
        if not names_etag(none_match, info.etag):
            return
    elif modified is None or _is_later(info, modified):
        return
    if prefix:
        raise PreconditionFailedError("the source is as it was")
    raise NotModified


def write_conditions(headers: Mapping[str, str]) -> tuple[bool, str]:
    """`if_absent` and `if_match` of a write. Raises NotSupportedError."""
    none_match, match = headers.get("If-None-Match"), headers.get("If-Match")
    if none_match is not None and none_match.strip() != "*":
        raise NotSupportedError("a write can be conditional on If-None-Match: * and on If-Match: ETAG")
    if match is not None and ("," in match or none_match is not None):
        raise NotSupportedError("a write can be conditional on one ETag: If-Match: ETAG")
    return none_match is not None, "" if match is None else plain_etag(match)


def names_etag(header: str, etag: str) -> bool:
    """Whether an If-Match or If-None-Match header means an object with `etag`."""
    return header.strip() == "*" or etag in map(plain_etag, header.split(","))


def plain_etag(text: str) -> str:
    return text.strip().removeprefix("W/").strip('"')


def _is_later(info: ObjectInfo, header: str) -> bool:
    """Whether the object is younger than an HTTP date, which has whole seconds. Not, for what is no date."""
    try:
        since_s = parsedate_to_datetime(header).timestamp()
    except (ValueError, TypeError):
        return False
    return int(info.modified_s) > since_s


def copy_source(text: str) -> tuple[str, str]:
    """Bucket and key of an x-amz-copy-source, which is percent-encoded. Raises InvalidArgumentError."""
    path, _, version = text.partition("?versionId=")
    bucket, slash, key = unquote(path).removeprefix("/").partition("/")
    if not bucket or not slash or not key or version not in ("", "null"):
        raise InvalidArgumentError(f"x-amz-copy-source must be bucket/key, not {text[:200]!r}")
    return bucket, key
