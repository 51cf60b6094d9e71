"""A file store's objects while they are read or written."""

from __future__ import annotations

import errno
import logging
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from threading import Lock

from objectcache.errors import (
    StoreError,
    StoreUnavailableError,
)
from objectcache.integrity import Buffer
from objectcache.stores.base import (
    FileRange,
    ObjectInfo,
    ObjectReader,
    ObjectUpload,
    check_metadata,
    check_range,
)
from objectcache.stores.file_attributes import info_of_descriptor, write_attributes
from objectcache.stores.file_mount import Mount
from objectcache.stores.file_naming import Publication, name_new, name_over
from objectcache.stores.file_space import FileSpace
from objectcache.stores.file_temporaries import Temporaries
from objectcache.stores.os_errors import store_error

_log = logging.getLogger(__name__)

_TRIES = 100
_NO_RESERVATION = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_NO_COPY = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EXDEV, errno.EBADF, errno.ETXTBSY}


class FileReader(ObjectReader):
    """Reads the object `name` from `descriptor`, which it owns; making one may raise OSError.

    `shows_files`: others may map the file, or send it.
    """

    def __init__(self, name: str, descriptor: int, *, shows_files: bool = True) -> None:
        self._shows_files = shows_files
        self.info = info_of_descriptor(name, descriptor)
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

    @contextmanager
    def files(self, offset: int, length: int) -> Iterator[Sequence[FileRange] | None]:
        check_range(self.info, offset, length)
        self._begin_read()
        try:
            yield [FileRange(self._descriptor, offset, length)] if self._shows_files else None
        finally:
            self._end_read()

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
    """Writes the object that `how` describes, with `size_bytes` reserved. Raises StoreError."""

    def __init__(
        self, how: Publication, space: FileSpace, temporaries: Temporaries, mount: Mount, *, size_bytes: int
    ) -> None:
        self._how, self._mount = how, mount
        self._name = name = how.name
        self._space, self._temporaries = space, temporaries
        self._written_bytes = 0
        space.reserve(size_bytes)
        self._reserved_bytes = size_bytes
        try:
            self._descriptor, self._temporary = temporaries.create(how.path)
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

    def write_from(self, source: ObjectReader, offset: int, length: int) -> None:
        """The kernel copies from file to file, or lets them share blocks, where the filesystem can."""
        self._check_running()
        with source.files(offset, length) as ranges:
            for file in ranges or ():
                copied_bytes = self._copy(file)
                offset, length = offset + copied_bytes, length - copied_bytes
                if copied_bytes < file.length:
                    break
        super().write_from(source, offset, length)

    def _copy(self, file: FileRange) -> int:
        """How many bytes of `file` the kernel has copied."""
        copied_bytes = 0
        more_bytes = self._written_bytes + file.length - self._reserved_bytes
        try:
            if more_bytes > 0:
                self._space.reserve(more_bytes)
                self._reserved_bytes += more_bytes
            while copied_bytes < file.length:
                at, left = file.offset + copied_bytes, file.length - copied_bytes
                count = os.copy_file_range(file.descriptor, self._descriptor, left, at)
                if not count:
                    break
                copied_bytes += count
                self._written_bytes += count
        except StoreError:
            self.abort()
            raise
        except OSError as error:
            if error.errno not in _NO_COPY:
                self.abort()
                raise store_error(error, f"copying to {self._name!r}") from error
        return copied_bytes

    def add_metadata(self, metadata: Mapping[str, str]) -> None:
        self._how = replace(self._how, metadata=check_metadata({**self._how.metadata, **metadata}))

    def publish(self, *, etag: str = "") -> ObjectInfo:
        self._check_running()
        try:
            info = self._finish(etag)
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

    def _finish(self, etag: str) -> ObjectInfo:
        """Make the temporary what the object will be."""
        os.ftruncate(self._descriptor, self._written_bytes)
        # The kernel's own time stamps may be a tick apart, and inode numbers come again: the etag needs better.
        now_ns = time.time_ns()
        if not etag and self._mount.lacks:  # where inodes may have other numbers on other hosts
            etag = f"{now_ns:x}-{secrets.token_hex(4)}"
        write_attributes(self._descriptor, etag, self._how.metadata, now_ns)
        os.utime(self._descriptor, ns=(now_ns, now_ns))
        # On network filesystems a close sends what is cached, so that others see the bytes with the name, and tells
        # of a full disk or quota. The descriptor itself holds the lock until the file has its name.
        os.close(os.dup(self._descriptor))
        return info_of_descriptor(self._name, self._descriptor)

    def _place(self, size_bytes: int) -> None:
        """Give the temporary its name. Directories vanish with their last object, hence the tries."""
        directory = os.path.dirname(self._how.path)
        for _ in range(_TRIES):
            try:
                with self._space.lock, self._temporaries.replacing():
                    if self._how.if_absent:
                        replaced_bytes = name_new(self._how, self._mount, self._temporary, self._descriptor)
                    else:
                        replaced_bytes = name_over(self._how, self._temporary)
                    self._space.changed(directory, size_bytes - replaced_bytes, reserved_bytes=self._reserved_bytes)
                    self._reserved_bytes = 0  # an interrupt after this must not give them back again
                return
            except FileNotFoundError:
                if not os.path.exists(self._temporary):
                    break  # the whole store was removed, and must not come back as empty directories
                with suppress(FileNotFoundError, FileExistsError):  # others make and remove it at the same time
                    os.makedirs(directory, exist_ok=True)
        raise StoreUnavailableError(f"publishing {self._name!r} failed: its temporary or directory keeps vanishing")


def _reserve_on_disk(descriptor: int, size_bytes: int) -> None:
    if not size_bytes or not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(descriptor, 0, size_bytes)
    except OSError as error:
        if error.errno not in _NO_RESERVATION:
            raise
