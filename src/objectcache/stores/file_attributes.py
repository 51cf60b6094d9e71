"""What an object has besides its bytes, as an extended attribute of its file: etag and metadata.

Files without it have an etag made of inode, time stamp and size. Written before the file gets its name, so that name,
bytes and attributes appear together. Filesystems without extended attributes keep objects that have no metadata.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import Any

import msgpack

from objectcache.errors import MetadataError
from objectcache.stores.base import ObjectInfo

_ATTRIBUTE = "user.objectcache"
_NONE = {errno.ENODATA, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM}
_TRIES = 8


def write_attributes(descriptor: int, etag: str, metadata: Mapping[str, str], modified_ns: int) -> None:
    """Attach them to the file. Raises MetadataError where it cannot keep them, OSError."""
    if not etag and not metadata:
        return
    try:
        os.setxattr(descriptor, _ATTRIBUTE, msgpack.packb([modified_ns, etag, dict(metadata)]))
    except OSError as error:
        if error.errno not in _NONE:
            raise
        if metadata:
            raise MetadataError("the file store's filesystem keeps no extended attributes, thus no metadata") from error


def info_of_descriptor(name: str, descriptor: int) -> ObjectInfo:
    """What the open file of the object `name` tells. Raises OSError."""
    stat = os.fstat(descriptor)
    return _info(name, stat, _read(descriptor))


def info_of_path(name: str, path: str, *, metadata: bool = True) -> ObjectInfo:
    """The same of a path, where another file may appear between two looks at it. Raises OSError.

    Without `metadata` that is left empty, as listings have it.
    """
    for _ in range(_TRIES):
        stat, attributes = os.stat(path), _read(path)
        if not attributes or attributes[0] == stat.st_mtime_ns:
            break
    if attributes and not metadata:
        attributes[2] = {}
    return _info(name, stat, attributes)


def _read(file: int | str) -> list[Any]:
    try:
        attributes: list[Any] = msgpack.unpackb(os.getxattr(file, _ATTRIBUTE))
    except OSError as error:
        if error.errno not in _NONE:
            raise
        return []
    except ValueError:  # not ours
        return []
    return attributes


def _info(name: str, stat: os.stat_result, attributes: list[Any]) -> ObjectInfo:
    _, etag, metadata = attributes or (0, "", {})
    if not etag:
        etag = f"{stat.st_ino:x}-{stat.st_mtime_ns:x}-{stat.st_size:x}"
    return ObjectInfo(name, stat.st_size, stat.st_mtime, etag, metadata)
