"""Extents on a local disk: files that are written once and evicted by unlinking, shared by processes.

    extents/<3 hex>/<29 hex>/<object bytes>-<extent bytes>-<index>    hex: the digest of store and object
    tmp/                                                              those being written
    used                                                              how many bytes all of it takes
    evicting                                                          locked by the one process that evicts or scans

A file with a name is whole. Its time of modification is when it was last used, to the minute.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from objectcache.errors import ConfigError
from objectcache.stores.base import StoreUsage
from objectcache.stores.file_temporaries import Temporaries
from objectcache.stores.os_errors import ABSENT, FULL, store_error
from objectcache.stores.read_cache_counter import SharedCounter
from objectcache.stores.read_cache_eviction import Evictor, files_in

_log = logging.getLogger(__name__)

TOUCH_INTERVAL_S = 60.0
_DISK_SHARE = 0.8
_TRIES = 100
_NO_RESERVATION = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


class Extent(NamedTuple):
    """`size_bytes` from byte `offset` of an object, in the file `path`."""

    path: str
    offset: int
    size_bytes: int


class ExtentWrite:
    """An extent being written. `place` or `drop` ends it. Raises OSError; ENOSPC also for the limit."""

    def __init__(self, temporaries: Temporaries, counter: SharedCounter, size_bytes: int, limit_bytes: int) -> None:
        self._temporaries, self._counter = temporaries, counter
        self._size_bytes = size_bytes
        self._descriptor, self._temporary = temporaries.create()
        self._counted = False
        try:
            # Long before it is counted: scans see at least as much as is counted.
            os.ftruncate(self._descriptor, size_bytes)
            self._counted = counter.add(size_bytes, limit_bytes)
            if not self._counted:
                raise OSError(errno.ENOSPC, "the limit is reached")
            _reserve_on_disk(self._descriptor, size_bytes)
        except BaseException:
            self.drop()
            raise

    def write(self, data: memoryview, at: int = 0) -> None:
        while data:
            count = os.pwrite(self._descriptor, data, at)
            data, at = data[count:], at + count

    def place(self, path: str) -> None:
        """Give it its name, all of it being written. Somebody else may have been faster."""
        try:
            if _link(self._temporary, path):
                self._counted = False  # the extent's from here on
        finally:
            self.drop()

    def drop(self) -> None:
        # The lock goes with the descriptor: what cannot be removed now, a later sweep removes.
        try:
            if self._counted:
                self._counter.remove(self._temporary, self._size_bytes)
            self._temporaries.remove(self._temporary)
        except OSError as error:
            _log.warning("removing a temporary of the read cache failed: %s", error)
        finally:
            self._counted = False
            os.close(self._descriptor)


class Extents:
    """The extents below `root`, which is made when missing. Thread-safe; any number of processes of one host.

    `limit_bytes` defaults to 80 % of the disk's free bytes and those held already. All that is there, written or being
    written, stays within it; only bytes of an unlinked file that somebody still reads come on top. Raises ConfigError
    for a root that cannot be used, StoreError. After that nothing fails: what cannot be kept is not there.
    """

    def __init__(
        self, root: str, limit_bytes: int | None = None, *, rank_of: Callable[[str], int] = lambda name: 0
    ) -> None:
        """`rank_of(file name)`: files of a higher rank go before those of a lower one, and never displace them."""
        if limit_bytes is not None and limit_bytes < 0:
            raise ConfigError(f"limit_bytes must not be negative, got {limit_bytes}")
        self._root, temporaries = f"{root}/extents", f"{root}/tmp"
        self._warned_s = -TOUCH_INTERVAL_S
        try:
            for directory in (self._root, temporaries):
                os.makedirs(directory, mode=0o770, exist_ok=True)
            self._temporaries = Temporaries(temporaries)
            self._counter = SharedCounter(f"{root}/used")
            self._evictor = Evictor(
                self._root, f"{root}/evicting", temporaries, self._temporaries, self._counter, rank_of
            )
            if limit_bytes is None:
                disk = os.statvfs(root)
                limit_bytes = int(_DISK_SHARE * (disk.f_bavail * disk.f_frsize + self._used_bytes))
        except (PermissionError, NotADirectoryError, FileExistsError) as error:
            raise ConfigError(f"{root!r} cannot hold a read cache: {error.strerror}") from error
        except OSError as error:
            raise store_error(error, f"opening the read cache in {root!r}") from error
        self.limit_bytes = limit_bytes

    def directory(self, store: str, name: str) -> str:
        """Where the extents of the object `name` of the store with the URL `store` are."""
        digest = hashlib.blake2b(f"{store}\0{name}".encode(), digest_size=16).hexdigest()
        return f"{self._root}/{digest[:3]}/{digest[3:]}"

    def open(self, extent: Extent, *, touch: bool = True) -> int | None:
        """A descriptor for reading; None when it is not there. An extent of another size is removed.

        `touch`: it is used by that; otherwise by `touch`.
        """
        try:
            descriptor = os.open(extent.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in ABSENT:
                self.warn("an extent cannot be opened", error)
            return None
        try:
            stat = os.fstat(descriptor)
            if stat.st_size == extent.size_bytes:
                if touch:
                    self.touch(descriptor)
                return descriptor
            self._counter.remove(extent.path, min(stat.st_size, extent.size_bytes))
        except OSError as error:
            self.warn("an extent cannot be used", error)
        os.close(descriptor)
        return None

    def touch(self, extent: int | str) -> None:
        """An extent, by its descriptor or path, is used now."""
        with suppress(OSError):
            if time.time() - os.stat(extent).st_mtime > TOUCH_INTERVAL_S:
                os.utime(extent)

    def holds(self, extent: Extent) -> bool:
        return os.path.exists(extent.path)

    def begin(self, size_bytes: int, rank: int = 0) -> ExtentWrite | None:
        """Room for an extent, made by evicting if need be; None where there is none."""
        if size_bytes > self.limit_bytes:
            return None
        for _ in range(2):
            rounds = self._evictor.rounds
            try:
                return ExtentWrite(self._temporaries, self._counter, size_bytes, self.limit_bytes)
            except OSError as error:
                if error.errno not in FULL:
                    self.warn("nothing can be written", error)
                    return None
            try:
                self._evictor.make_room(size_bytes, self.limit_bytes, rounds, rank)
            except OSError as error:
                self.warn("nothing can be evicted", error)
                return None
        return None

    def write(self, writing: ExtentWrite, data: memoryview, at: int = 0) -> bool:
        """Part of an extent; False when the disk does not take it: the extent is given up."""
        try:
            writing.write(data, at)
        except OSError as error:
            self.warn("an extent cannot be written", error)
            writing.drop()
            return False
        return True

    def place(self, writing: ExtentWrite, path: str) -> None:
        """Make an extent visible, which has been written. Not keeping it is all that can happen."""
        try:
            writing.place(path)
        except OSError as error:
            self.warn("an extent cannot be placed", error)

    def remove(self, extent: Extent) -> None:
        """Take one out, if it is there. Raises OSError."""
        if self._counter.remove(extent.path, extent.size_bytes):
            with suppress(OSError):  # others are in it
                os.rmdir(os.path.dirname(extent.path))

    def discard(self, directory: str) -> None:
        """Remove the extents of one object."""
        try:
            found = files_in(directory)
            for file in found:
                self._counter.remove(file.path, file.size_bytes)
            if found:
                os.rmdir(directory)
        except OSError as error:
            if error.errno not in ABSENT | {errno.ENOTEMPTY}:
                self.warn("extents cannot be removed", error)

    @property
    def _used_bytes(self) -> int:
        count = self._counter.read()
        return count.used_bytes if count else 0

    def usage(self) -> StoreUsage:
        return StoreUsage(self._used_bytes, self.limit_bytes)

    @property
    def evicted(self) -> int:
        """Extents that this process has evicted."""
        return self._evictor.evicted

    def warn(self, what: str, error: OSError) -> None:
        """Once a minute at most: a broken disk would say it with every read."""
        if time.monotonic() - self._warned_s >= TOUCH_INTERVAL_S:
            self._warned_s = time.monotonic()
            _log.warning("the read cache in %s: %s: %s", os.path.dirname(self._root), what, error)

    def close(self) -> None:
        self._evictor.close()
        self._temporaries.close()
        self._counter.close()


def _link(temporary: str, path: str) -> bool:
    """Whether the temporary has got the name. Directories vanish with their last extent, hence the tries."""
    for _ in range(_TRIES):
        try:
            os.link(temporary, path)
            return True
        except FileExistsError:
            return False
        except FileNotFoundError:
            with suppress(FileNotFoundError, FileExistsError):
                os.makedirs(os.path.dirname(path), mode=0o770, exist_ok=True)
    return False


def _reserve_on_disk(descriptor: int, size_bytes: int) -> None:
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(descriptor, 0, size_bytes)
    except OSError as error:
        if error.errno not in _NO_RESERVATION:
            raise
