"""Files mapped for copying, in windows: kept while they are used, and bounded.

A copy from a mapping that is warm is one memcpy. What is not in the page cache is read instead, which can wait for a
disk, and fail, without bringing down the process. A mapping keeps its file's blocks: windows that nobody has used for
a while go, since the file may have been deleted.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from objectcache.errors import IntegrityError
from objectcache.pages import FileWindow
from objectcache.stores import FileRange
from objectcache.stores.os_errors import store_error

WINDOW_BYTES = 64 << 20
MAX_WINDOWS = 4096
"""The kernel allows 65,530 mappings a process."""
IDLE_S = 5.0
AHEAD_BYTES = 16 << 20
"""How much is announced to the kernel where a file is not in its cache."""

_NO_MAPS = {errno.ENODEV, errno.EOPNOTSUPP, errno.ENOSYS}
"""How a filesystem says that its files cannot be mapped, as those over FUSE without the page cache."""

_Key = tuple[int, int, int]


class MappedPiece(NamedTuple):
    """`length` bytes at `address` of this process."""

    address: int
    length: int


@dataclass(eq=False, slots=True)
class _Entry:
    window: FileWindow
    used_s: float
    holders: int = 0


class MappedFiles:
    """Windows by device, inode and index: while a window is mapped, no other file can get its inode. Thread-safe."""

    def __init__(self, limit_bytes: int | None = None) -> None:
        """`limit_bytes` of mappings, beside those in use; default: a quarter of the machine's memory."""
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        self._limit_bytes = pages // 4 if limit_bytes is None else limit_bytes
        self._lock = threading.Lock()
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()  # the least recently used first
        self._mapped_bytes = 0

    @property
    def mapped_bytes(self) -> int:
        return self._mapped_bytes

    def copy(self, file: FileRange, out: memoryview) -> None:
        """Fill `out` with a range of a file. Raises IntegrityError when the file is shorter, StoreError."""
        try:
            status, done = _status(file), 0
            for index, within, length in _pieces(file):
                piece = out[done : done + length]
                if not self._copied(file.descriptor, status, index, within, piece):
                    _read(file.descriptor, file.offset + done, piece)
                done += length
        except OSError as error:
            raise store_error(error, "reading a file of the store") from error

    def hold(self, file: FileRange, stack: ExitStack) -> list[MappedPiece] | None:
        """Where a range of a file lies mapped, until `stack` ends. None: not all of it is in the page cache, or it
        cannot be mapped. Raises IntegrityError when the file is shorter, StoreError."""
        pieces = []
        try:
            status = _status(file)
            with ExitStack() as held:
                for index, within, length in _pieces(file):
                    window = held.enter_context(self._window(file.descriptor, status, index))
                    if not window.resident(within, length):
                        return None
                    pieces.append(MappedPiece(window.address + within, length))
                stack.enter_context(held.pop_all())
        except OSError as error:
            if error.errno in _NO_MAPS:
                return None
            raise store_error(error, "mapping a file of the store") from error
        return pieces

    def _copied(self, descriptor: int, status: os.stat_result, index: int, within: int, piece: memoryview) -> bool:
        """Whether the range, of one window, was in the page cache, and now is in `piece`."""
        try:
            with self._window(descriptor, status, index) as window:
                found = window.resident(within, len(piece))
                if found:
                    np.copyto(np.frombuffer(piece, np.uint8), window.data[within : within + len(piece)])
                return found
        except OSError as error:
            if error.errno not in _NO_MAPS:
                raise
            return False

    @contextmanager
    def _window(self, descriptor: int, status: os.stat_result, index: int) -> Iterator[FileWindow]:
        key = (status.st_dev, status.st_ino, index)
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                offset = index * WINDOW_BYTES
                length = min(WINDOW_BYTES, status.st_size - offset)
                self._make_room(length)
                entry = _Entry(self._map(descriptor, offset, length), time.monotonic())
                self._entries[key] = entry
                self._mapped_bytes += length
            else:
                self._entries.move_to_end(key)
            entry.holders += 1
        try:
            yield entry.window
        finally:
            with self._lock:
                entry.holders -= 1
                entry.used_s = time.monotonic()

    def _map(self, descriptor: int, offset: int, length: int) -> FileWindow:
        """Raises OSError."""
        return FileWindow(descriptor, offset, length)

    def _make_room(self, length: int) -> None:
        for key, entry in list(self._entries.items()):
            if self._mapped_bytes + length <= self._limit_bytes and len(self._entries) < MAX_WINDOWS:
                return
            if not entry.holders:
                self._drop(key)

    def _drop(self, key: _Key) -> None:
        entry = self._entries.pop(key)
        self._mapped_bytes -= entry.window.length
        entry.window.close()

    def close_idle(self, now_s: float) -> None:
        """Unmap what nobody has used for IDLE_S."""
        with self._lock:
            for key, entry in list(self._entries.items()):
                if not entry.holders and now_s - entry.used_s > IDLE_S:
                    self._drop(key)


def _status(file: FileRange) -> os.stat_result:
    """Raises IntegrityError when the file ends within the range, OSError."""
    status = os.fstat(file.descriptor)
    if status.st_size < file.offset + file.length:
        raise IntegrityError(f"a file ends at {status.st_size}, within what was to be read")
    return status


def _pieces(file: FileRange) -> Iterator[tuple[int, int, int]]:
    """A range by windows: the index of each, where in it the piece begins, and its length."""
    at, stop = file.offset, file.offset + file.length
    while at < stop:
        index, within = divmod(at, WINDOW_BYTES)
        length = min(stop - at, WINDOW_BYTES - within)
        yield index, within, length
        at += length


def _read(descriptor: int, offset: int, out: memoryview) -> None:
    os.posix_fadvise(descriptor, offset, max(len(out), AHEAD_BYTES), os.POSIX_FADV_WILLNEED)
    while out:
        count = os.preadv(descriptor, [out], offset)
        if not count:
            raise IntegrityError(f"a file ends at {offset}, within what was to be read")
        out, offset = out[count:], offset + count
