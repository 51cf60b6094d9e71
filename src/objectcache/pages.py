"""Pages of mapped memory: whether they are there, and bringing them there. Linux; the interpreter lock is released."""

from __future__ import annotations

import ctypes
import mmap
import os
from contextlib import suppress

import numpy as np

PAGE_BYTES = mmap.PAGESIZE
_POPULATE_WRITE = 23
"""MADV_POPULATE_WRITE, since Linux 5.14."""
_NORESERVE = 0x4000
"""MAP_NORESERVE, which Python's mmap has no name for."""
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_int64)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)


def address_of(view: memoryview) -> int:
    """Where memory that can be written begins."""
    return int(np.frombuffer(view, np.uint8).ctypes.data)


def private_memory(size_bytes: int) -> mmap.mmap:
    """Memory of this process only, in large pages where the kernel gives some: others that write it have fewer to look
    up. Children do not get it: a page that a fork has made two of would be another one than a network card writes.

    It may be larger than what there is: as with files, only pages that are used count. Raises MemoryError.
    """
    try:
        made = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE)
    except OSError as error:
        raise MemoryError(f"there is no memory for {size_bytes} bytes: {error}") from error
    with suppress(OSError):  # a kernel without large pages
        made.madvise(mmap.MADV_HUGEPAGE)
    made.madvise(mmap.MADV_DONTFORK)
    return made


def populate(view: memoryview) -> None:
    """Give every page of a shared mapping (from a page's start) its memory, as a first write would, content untouched.

    Raises MemoryError.
    """
    if _libc.madvise(address_of(view), view.nbytes, _POPULATE_WRITE) == 0:
        return
    if ctypes.get_errno() == 12:  # ENOMEM
        raise MemoryError(f"there is no memory for {view.nbytes} bytes")
    pages = np.frombuffer(view, np.uint8)[::PAGE_BYTES]
    np.bitwise_or(pages, 0, out=pages)


class FileWindow:
    """`length` bytes of a file from `offset` (of a page), mapped for reading. Needs no descriptor meanwhile.

    Thread-safe, but for `close`: nobody may read `data` then. Making one raises OSError.
    """

    def __init__(self, descriptor: int, offset: int, length: int) -> None:
        address = _libc.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, offset)
        if address == _FAILED:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self.length = length
        self.address: int = address
        self.data = np.frombuffer(memoryview((ctypes.c_ubyte * length).from_address(address)), np.uint8)

    def resident(self, offset: int, length: int) -> bool:
        """Whether all of a range is in the page cache: it can be read without waiting, and without an I/O error."""
        return b"\0" not in self._residency(offset, length)

    def resident_pages(self) -> int:
        """How many of the window's pages are in the page cache."""
        return self._residency(0, self.length).count(1)

    def _residency(self, offset: int, length: int) -> bytes:
        """A byte per page of a range: 1 or 0."""
        begin = offset - offset % PAGE_BYTES
        pages = ctypes.create_string_buffer(-(-(offset + length - begin) // PAGE_BYTES))
        _libc.mincore(self.address + begin, offset + length - begin, pages)
        return pages.raw

    def close(self) -> None:
        del self.data
        _libc.munmap(self.address, self.length)
