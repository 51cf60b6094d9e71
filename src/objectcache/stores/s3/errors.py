"""What obstore's exceptions mean for a store. By type, never by message."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    InvalidPathError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from objectcache.errors import (
    InvalidObjectNameError,
    ObjectChangedError,
    ObjectExistsError,
    ObjectNotFoundError,
    StoreAccessError,
    StoreError,
    StoreUnavailableError,
)

FOREIGN = (BaseError, OSError, ValueError)
"""All that obstore raises: its own, FileNotFoundError for what is not there, ValueError for what it cannot parse."""
_SHOWN_CHARACTERS = 300


def store_error(error: Exception, doing: str) -> StoreError:
    """The StoreError that `error` is when it happens while `doing` ("reading 'a/b'")."""
    if isinstance(error, FileNotFoundError):
        return ObjectNotFoundError(f"{doing}: there is no such object")
    if isinstance(error, AlreadyExistsError):
        return ObjectExistsError(f"{doing}: the name is taken")
    if isinstance(error, PreconditionError):
        return ObjectChangedError(f"{doing}: the object has another etag by now")
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return StoreAccessError(
            f"{doing} was refused. Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN (or the role), "
            f"and that it may list the bucket and get, put and delete objects: {_first_line(error)}"
        )
    if isinstance(error, InvalidPathError):
        return InvalidObjectNameError(
            f"{doing}: a key there is not an object name. Give the store a prefix of its own: {_first_line(error)}"
        )
    return StoreUnavailableError(f"{doing} failed: {_first_line(error)}")


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Raises what obstore's exceptions in the body are to a store."""
    try:
        yield
    except FOREIGN as error:
        raise store_error(error, doing) from error


def _first_line(error: Exception) -> str:
    """The rest of it is a dump of Rust structures."""
    return str(error).split("\n", 1)[0][:_SHOWN_CHARACTERS]
