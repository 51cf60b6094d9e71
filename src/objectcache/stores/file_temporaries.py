"""Files being written, before they have a name.

Each is held under an exclusive `flock` by the process that writes it. The lock ends with the process, however that
ends: a temporary whose lock is free belongs to nobody and is removed. No pids, no ages, no clocks. On a shared mount
this needs locks that hold across its hosts (NFS, CephFS, GPFS, Lustre with `-o flock`); where the mount lacks them, a
temporary that nobody has written to for a day belongs to nobody.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from uuid import uuid4

from objectcache.errors import StoreUnavailableError
from objectcache.stores.file_mount import Mount

ABANDONED_S = 86_400.0
SUFFIX = ".tmp"
"""Of temporaries beside objects."""
_TRIES = 100
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF}
"""EBADF: NFS locks no directories."""


class Temporaries:
    """The temporaries in one directory, or beside the objects below `objects`. Thread-safe. Raises OSError."""

    def __init__(self, directory: str, objects: str = "", mount: Mount | None = None) -> None:
        self._directory = directory
        self._objects = objects
        self._mount = mount or Mount()
        self._lock = Lock()
        self._own: set[str] = set()
        self._descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    @contextmanager
    def replacing(self) -> Iterator[None]:
        """One process at a time: between looking at an object and replacing or removing it, nobody else does.

        The caller keeps its own threads apart. Raises StoreUnavailableError when closed.
        """
        with self._lock:
            if self._descriptor < 0:
                raise StoreUnavailableError("the store is closed")
            # Of its own: closed meanwhile, the number would be another file's.
            descriptor = os.dup(self._descriptor)
        try:
            _lock_if_possible(descriptor)
            yield
        finally:
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def close(self) -> None:
        """Harmless twice: the number would be another's by then."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def create(self, beside: str = "") -> tuple[int, str]:
        """A new one, open for writing and locked: (file descriptor, path). `beside` is where the object will be."""
        while True:
            path = f"{self._directory}/{uuid4().hex}"
            if beside and not self._mount.renames:
                path = f"{os.path.dirname(beside)}/{uuid4().hex}{SUFFIX}"
            with self._lock:
                self._own.add(path)
            try:
                descriptor = _opened(path)
            except BaseException:
                self._forget(path)
                raise
            try:
                if self._mount.locks:
                    _lock_if_possible(descriptor)
                if os.fstat(descriptor).st_nlink:
                    return descriptor, path
            except BaseException:
                self.remove(path)
                os.close(descriptor)
                raise
            # Another process swept it between the two calls.
            self._forget(path)
            os.close(descriptor)

    def remove(self, path: str) -> None:
        """Unlink it; it may have been renamed or swept."""
        try:
            with suppress(FileNotFoundError):
                os.unlink(path)
            if not self._mount.renames:
                remove_empty(os.path.dirname(path), self._objects)
        finally:
            self._forget(path)

    def _forget(self, path: str) -> None:
        with self._lock:
            self._own.discard(path)

    def sweep(self) -> int:
        """Remove those of dead processes; the bytes of what living others are writing."""
        others_bytes = 0
        for name in os.listdir(self._directory):
            path = f"{self._directory}/{name}"
            others_bytes += self.sweep_one(path)
        return others_bytes

    def sweep_one(self, path: str) -> int:
        """Remove the temporary if it is a dead process's; the bytes of what a living other one is writing."""
        with self._lock:
            own = path in self._own
        if not own:
            with suppress(FileNotFoundError):
                return _sweep_locked(path) if self._mount.locks else _sweep_old(path)
        return 0


def remove_empty(directory: str, root: str) -> None:
    """Remove `directory`, and those it is in, while they are empty, up to `root`. Never fails.

    Whoever needs one just then makes it again.
    """
    with suppress(OSError):
        while directory != root and directory.startswith(root):
            os.rmdir(directory)
            directory = os.path.dirname(directory)


def _opened(path: str) -> int:
    for _ in range(_TRIES):
        # Prompts are private: nobody but owner and group.
        with suppress(FileNotFoundError):
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o660)
        if not path.endswith(SUFFIX):
            break
        with suppress(FileNotFoundError, FileExistsError):  # directories vanish with their last object
            os.makedirs(os.path.dirname(path), exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o660)


def _lock_if_possible(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise  # without locks nothing is swept, which is safe


def _sweep_old(path: str) -> int:
    """Remove a temporary if nobody has written to it for long; the bytes it keeps."""
    status = os.stat(path)
    if time.time() - status.st_mtime < ABANDONED_S:
        return status.st_size
    os.unlink(path)
    return 0


def _sweep_locked(path: str) -> int:
    """Remove a temporary if its lock is free; the bytes it keeps."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except PermissionError:
        return os.stat(path).st_size
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
        return 0
    except FileNotFoundError:
        return 0
    except OSError:
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)
