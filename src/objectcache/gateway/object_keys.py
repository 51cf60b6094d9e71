"""S3 keys as names of a store, which has no components that are empty, `.` or `..`.

Such components get a space: "" is written " ", "." is ". ", and so that nothing else means the same, components that
begin with a space, or with one or two dots and a space, get one more. Any other key is its own name. Names sort as
their keys do, but for those few beside names with characters before "/".
"""

from __future__ import annotations

import re

from objectcache.errors import InvalidArgumentError, KeyTooLongError, RequestError
from objectcache.names import is_reserved
from objectcache.stores.base import MAX_NAME_BYTES

CHUNK_PREFIX = ".chunks/"
_ODD = re.compile(r"(\.{0,2})( .*)?", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def name_of_key(key: str) -> str:
    """The name of an object that S3 clients call `key`. Raises KeyTooLongError, InvalidArgumentError."""
    if len(key.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        raise KeyTooLongError(f"a key has at most {MAX_NAME_BYTES} bytes")
    if not key or _CONTROL.search(key):
        raise InvalidArgumentError("keys that are empty, have control characters or are not UTF-8 are not kept here")
    name = place_of_key(key)
    if len(name.encode()) > MAX_NAME_BYTES:
        raise KeyTooLongError(f"this key has components that take more than {MAX_NAME_BYTES} bytes to write")
    return name


def writable_name(key: str) -> str:
    """The name of an object that S3 clients may write. Raises as `name_of_key`, and RequestError for what is KV's."""
    name = name_of_key(key)
    if is_kept_for_kv(name):
        raise RequestError(f"keys that begin with {name.split('/')[0]}/ are kept for KV")
    return name


def place_of_key(key: str) -> str:
    """Where `key` stands in the order of names, whether or not it can be one."""
    return "/".join(map(_written, key.split("/"))) if key else ""


def prefix_of_key(prefix: str) -> str:
    """What the names of keys that begin with `prefix` begin with."""
    *whole, last = prefix.split("/")
    # The last component may go on: only what any continuation would get is written.
    begun = last if last in ("", ".", "..") else _written(last)
    return "/".join([*map(_written, whole), begun])


def key_of_name(name: str) -> str:
    """The inverse of `name_of_key`."""
    if " " not in name:  # nothing is written otherwise
        return name
    return "/".join(map(_read, name.split("/")))


def is_kept_for_kv(name: str) -> bool:
    """Whether the name is not an ordinary object's."""
    return is_reserved(name) or name.startswith(CHUNK_PREFIX)


def _written(component: str) -> str:
    odd = _ODD.fullmatch(component)
    return component if odd is None else f"{odd[1]} {odd[2] or ''}"


def _read(component: str) -> str:
    odd = _ODD.fullmatch(component)
    return component if odd is None or not odd[2] else odd[1] + odd[2][1:]
