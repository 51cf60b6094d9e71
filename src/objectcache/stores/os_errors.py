"""What the operating system's errors mean for a store. By number, never by message."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from objectcache.errors import ObjectNotFoundError, StoreError, StoreFullError, StoreUnavailableError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ESTALE}
"""A path that leads nowhere; ESTALE is how NFS says that another host has deleted the file."""


def store_error(error: OSError, doing: str) -> StoreError:
    """The StoreError that `error` is when it happens while `doing` ("reading 'a/b'"): full or unavailable."""
    kind = StoreFullError if error.errno in FULL else StoreUnavailableError
    number = errno.errorcode.get(error.errno or 0, "unknown error")
    return kind(f"{doing} failed: {number}, {error.strerror}")


def not_found(error: OSError, name: str) -> StoreError:
    """The same for opening the object `name`, which may be absent."""
    if error.errno in ABSENT:
        return ObjectNotFoundError(f"{name!r} is not stored")
    return store_error(error, f"opening {name!r}")


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Raises what the body's OSErrors are to a store."""
    try:
        yield
    except OSError as error:
        raise store_error(error, doing) from error
