"""An object's metadata as S3 keeps it: a few headers as such, the rest as user metadata, all of it ASCII.

`x-amz-meta-NAME` is user metadata NAME. Headers that S3 does not keep are user metadata under a prefix of ours. Values
that a header cannot carry unchanged are written as S3 itself returns such values, in the manner of RFC 2047.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping

from objectcache.errors import MetadataError

MAX_USER_BYTES = 2048
"""S3's limit for names and values of user metadata."""

_USER = "x-amz-meta-"
_OTHER = "objectcache-"
"""User metadata `objectcache-NAME` is the header NAME."""
_STANDARD = {
    "content-type": "Content-Type",
    "content-encoding": "Content-Encoding",
    "content-language": "Content-Language",
    "content-disposition": "Content-Disposition",
    "cache-control": "Cache-Control",
}
_HEADERS = {attribute: header for header, attribute in _STANDARD.items()}
_NOT_OURS = {"Storage-Class"}
# Printable ASCII that no HTTP library trims, folds or drops.
_SAFE = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_ENCODED = re.compile(r"=\?utf-8\?b\?([A-Za-z0-9+/]*={0,2})\?=", re.IGNORECASE)


def to_attributes(metadata: Mapping[str, str]) -> dict[str, str]:
    """obstore's attributes for `metadata`, which is legal. Raises MetadataError when S3 would not keep that much."""
    attributes = {}
    user_bytes = 0
    for header, value in metadata.items():
        if header in _STANDARD and _is_plain(value):
            attributes[_STANDARD[header]] = value
            continue
        name = header.removeprefix(_USER)
        if name == header or not name or name.startswith(_OTHER):
            name = _OTHER + header
        attributes[name] = value if _is_plain(value) else _encoded(value)
        user_bytes += len(name) + len(attributes[name])
    if user_bytes > MAX_USER_BYTES:
        raise MetadataError(
            f"S3 keeps at most {MAX_USER_BYTES} bytes of user metadata with an object, not {user_bytes}"
        )
    return attributes


def from_attributes(attributes: Mapping[str, str]) -> dict[str, str]:
    """What `to_attributes` was given, and for objects of others what they have in the same places."""
    metadata, set_apart = {}, {}
    for attribute, value in attributes.items():
        name = attribute.lower()
        if attribute in _HEADERS:
            metadata[_HEADERS[attribute]] = value
        elif name.startswith(_OTHER) and name != _OTHER:
            set_apart[name.removeprefix(_OTHER)] = _decoded(value)
        elif attribute not in _NOT_OURS:
            metadata[_USER + name] = _decoded(value)
    return metadata | set_apart


def _is_plain(value: str) -> bool:
    return _SAFE.fullmatch(value) is not None and "  " not in value and not _ENCODED.search(value)


def _encoded(value: str) -> str:
    return f"=?utf-8?b?{base64.b64encode(value.encode()).decode()}?="


def _decoded(value: str) -> str:
    """Values that others wrote, and that only look encoded, stay as they are."""
    found = _ENCODED.fullmatch(value)
    if found is None:
        return value
    try:
        return base64.b64decode(found[1], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return value
