"""A file store's objects while they are read or written."""

from __future__ import annotations

import errno
import logging
import os
import time
from contextlib import suppress
from threading import Lock

from objectcache.errors import ObjectExistsError, StoreError, StoreUnavailableError
from objectcache.integrity import Buffer
from objectcache.stores.base import ObjectInfo, ObjectReader, ObjectUpload, check_range
from objectcache.stores.file_space import FileSpace
from objectcache.stores.file_temporaries import Temporaries
from objectcache.stores.os_errors import store_error

_log = logging.getLogger(__name__)

_TRIES = 100
_NO_RESERVATION = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


def file_info(name: str, stat: os.stat_result) -> ObjectInfo:
    """What the file of the object `name` tells."""
    return ObjectInfo(name, stat.st_size, stat.st_mtime, f"{stat.st_ino:x}-{stat.st_mtime_ns:x}-{stat.st_size:x}")


class FileReader(ObjectReader):
    """Reads the object `name` from `descriptor`, which it owns; making one may raise OSError."""

    def __init__(self, name: str, descriptor: int) -> None:
        self.info = file_info(name, os.fstat(descriptor))
        self._descriptor = descriptor
        self._lock = Lock()
        self._reads = 0
        self._closed = False

    def read_into(self, offset: int, out: memoryview) -> None:
        check_range(self.info, offset, out.nbytes)
        self._begin_read()
        try:
            rest = out.cast("B") if out.nbytes else out  # views of no bytes cannot be cast
            while rest.nbytes:
                count = os.preadv(self._descriptor, [rest], offset)
                if not count:
                    raise StoreUnavailableError(f"{self.info.name!r} ends early: its file has been truncated")
                offset += count
                rest = rest[count:]
        except OSError as error:
            raise store_error(error, f"reading {self.info.name!r}") from error
        finally:
            self._end_read()

    def fileno(self) -> int | None:
        return self._descriptor

    def close(self) -> None:
        with self._lock:
            unused = not self._closed and not self._reads
            self._closed = True
        if unused:
            os.close(self._descriptor)

    # A descriptor's number is given to the next file that is opened: closed under a running read, it would be read
    # instead. The last of them closes.

    def _begin_read(self) -> None:
        with self._lock:
            if self._closed:
                raise StoreError(f"the reader of {self.info.name!r} is closed")
            self._reads += 1

    def _end_read(self) -> None:
        with self._lock:
            self._reads -= 1
            unused = self._closed and not self._reads
        if unused:
            os.close(self._descriptor)


class FileUpload(ObjectUpload):
    """Writes the object `name`, to be at `path`, with `size_bytes` reserved. Raises StoreError."""

    def __init__(
        self, name: str, path: str, space: FileSpace, temporaries: Temporaries, *, size_bytes: int, if_absent: bool
    ) -> None:
        self._name, self._path, self._if_absent = name, path, if_absent
        self._space, self._temporaries = space, temporaries
        self._written_bytes = 0
        space.reserve(size_bytes)
        self._reserved_bytes = size_bytes
        try:
            self._descriptor, self._temporary = temporaries.create()
        except OSError as error:
            space.settle(size_bytes)
            raise store_error(error, f"beginning {name!r}") from error
        self._ended = False
        try:
            _reserve_on_disk(self._descriptor, size_bytes)
        except OSError as error:
            self.abort()
            raise store_error(error, f"reserving {size_bytes} bytes for {name!r}") from error

    def write(self, data: Buffer) -> None:
        self._check_running()
        view = memoryview(data)
        rest = view.cast("B") if view.nbytes else view
        more_bytes = self._written_bytes + rest.nbytes - self._reserved_bytes
        try:
            if more_bytes > 0:
                self._space.reserve(more_bytes)
                self._reserved_bytes += more_bytes
            while rest.nbytes:
                count = os.write(self._descriptor, rest)
                self._written_bytes += count
                rest = rest[count:]
        except StoreError:
            self.abort()
            raise
        except OSError as error:
            self.abort()
            raise store_error(error, f"writing {self._name!r}") from error

    def publish(self) -> ObjectInfo:
        self._check_running()
        try:
            info = self._finish()
            self._place(info.size_bytes)
        except OSError as error:
            self.abort()
            raise store_error(error, f"publishing {self._name!r}") from error
        except BaseException:
            self.abort()
            raise
        self._end()
        return info

    def abort(self) -> None:
        if not self._ended:
            self._space.settle(self._reserved_bytes)
            self._end()

    def _check_running(self) -> None:
        if self._ended:
            raise StoreError(f"the upload of {self._name!r} has ended")

    def _end(self) -> None:
        """Let go of the temporary. Its lock goes with it: what cannot be removed now, a later sweep removes."""
        self._ended = True
        try:
            self._temporaries.remove(self._temporary)
        except OSError as error:
            _log.warning("removing the temporary of %r failed: %s", self._name, error)
        with suppress(OSError):  # the bytes were sent before the object was placed, or are dropped
            os.close(self._descriptor)

    def _finish(self) -> ObjectInfo:
        """Make the temporary what the object will be."""
        os.ftruncate(self._descriptor, self._written_bytes)
        # The kernel's own time stamps may be a tick apart, and inode numbers come again: the etag needs better.
        now_ns = time.time_ns()
        os.utime(self._descriptor, ns=(now_ns, now_ns))
        # On network filesystems a close sends what is cached, so that others see the bytes with the name, and tells
        # of a full disk or quota. The descriptor itself holds the lock until the file has its name.
        os.close(os.dup(self._descriptor))
        return file_info(self._name, os.fstat(self._descriptor))

    def _place(self, size_bytes: int) -> None:
        """Give the temporary its name. Directories vanish with their last object, hence the tries."""
        directory = os.path.dirname(self._path)
        for _ in range(_TRIES):
            try:
                with self._space.lock:
                    replaced_bytes = self._link() if self._if_absent else self._rename()
                    self._space.changed(directory, size_bytes - replaced_bytes, reserved_bytes=self._reserved_bytes)
                    self._reserved_bytes = 0  # an interrupt after this must not give them back again
                return
            except FileNotFoundError:
                with suppress(FileNotFoundError, FileExistsError):  # others make and remove it at the same time
                    os.makedirs(directory, exist_ok=True)
        raise StoreUnavailableError(f"publishing {self._name!r} failed: its temporary or directory keeps vanishing")

    def _link(self) -> int:
        try:
            os.link(self._temporary, self._path)
        except FileExistsError as error:
            # NFS asks again when an answer is lost, and is then told of its own success.
            if not os.path.samestat(os.fstat(self._descriptor), os.stat(self._path)):
                raise ObjectExistsError(f"{self._name!r} is stored already") from error
        return 0

    def _rename(self) -> int:
        try:
            replaced_bytes = os.stat(self._path).st_size
        except FileNotFoundError:
            replaced_bytes = 0
        os.rename(self._temporary, self._path)
        return replaced_bytes


def _reserve_on_disk(descriptor: int, size_bytes: int) -> None:
    if not size_bytes or not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(descriptor, 0, size_bytes)
    except OSError as error:
        if error.errno not in _NO_RESERVATION:
            raise
