"""A file store's object appears: its temporary gets its name, under the conditions that were made."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from objectcache.errors import ObjectChangedError, ObjectExistsError, ObjectNotFoundError, StoreUnavailableError
from objectcache.stores.base import ANY_ETAG
from objectcache.stores.file_attributes import info_of_path
from objectcache.stores.file_mount import NO_LINKS, Mount, rename_new


@dataclass(frozen=True, slots=True)
class Publication:
    """Where an object is to appear, under what conditions, and with what."""

    name: str
    path: str
    if_absent: bool
    if_match: str
    metadata: Mapping[str, str]


def name_new(how: Publication, mount: Mount, temporary: str, descriptor: int) -> int:
    """Name the temporary, which `descriptor` is open for, if nothing has that name. 0: no bytes are replaced.

    Raises ObjectExistsError, StoreUnavailableError, OSError.
    """
    try:
        if mount.links:
            os.link(temporary, how.path)
        else:
            rename_new(temporary, how.path)
    except FileExistsError as error:
        # NFS asks again when an answer is lost, and is then told of its own success.
        if not os.path.samestat(os.fstat(descriptor), os.stat(how.path)):
            raise ObjectExistsError(f"{how.name!r} is stored already") from error
    except OSError as error:
        if mount.links and error.errno in NO_LINKS:
            raise StoreUnavailableError(
                f"publishing {how.name!r} failed: the filesystem has no hard links, which ?lacks=links in the store's "
                "URL does without"
            ) from error
        raise
    return 0


def name_over(how: Publication, temporary: str) -> int:
    """Name the temporary, over what has that name; how many bytes that had.

    Raises ObjectNotFoundError, ObjectChangedError, OSError.
    """
    replaced_bytes = 0
    try:
        replaced = info_of_path(how.name, how.path)
    except FileNotFoundError as error:
        if how.if_match:
            raise ObjectNotFoundError(f"{how.name!r} is not stored") from error
    else:
        if how.if_match not in ("", ANY_ETAG, replaced.etag):
            raise ObjectChangedError(f"{how.name!r} has the etag {replaced.etag}, not {how.if_match}")
        replaced_bytes = replaced.size_bytes
    os.rename(temporary, how.path)
    return replaced_bytes
