"""What librados' errors mean for a store. By number, never by message."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

import rados

from objectcache.errors import (
    ObjectNotFoundError,
    StoreAccessError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
)

CONFLICT = errno.ECANCELED
"""A condition of a write did not hold, so that nothing of it was done."""
_REFUSED = {errno.EACCES, errno.EPERM}
_FULL = {errno.ENOSPC, errno.EDQUOT}


def store_error(number: int | None, doing: str) -> StoreError:
    """The StoreError that `number` is when it happens while `doing` ("reading 'a/b'")."""
    if number == errno.ENOENT:
        return ObjectNotFoundError(f"{doing}: there is no such object")
    if number in _REFUSED:
        return StoreAccessError(
            f"{doing} was refused ({_name(number)}). The client needs mon 'allow r' and osd 'allow rw pool=…' for its "
            "pools and their namespace: see `ceph auth get`"
        )
    if number in _FULL:
        return StoreFullError(f"{doing} failed: the pool's quota or the cluster's space is used up ({_name(number)})")
    return StoreUnavailableError(f"{doing} failed: {_name(number)}")


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Raises what librados' exceptions in the body are to a store."""
    try:
        yield
    except rados.Error as error:
        raise store_error(error.errno, doing) from error


def _name(number: int | None) -> str:
    if number is None:
        return "no connection"
    return f"{errno.errorcode.get(number, number)}, {os.strerror(number)}"
