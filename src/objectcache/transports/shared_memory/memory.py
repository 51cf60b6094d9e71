"""The client's memory: a sealed shared file that cannot become shorter under whoever has mapped it."""

from __future__ import annotations

import fcntl
import mmap
import os
from contextlib import suppress

from objectcache.buffers import SEALS
from objectcache.errors import SharedMemoryRefusedError
from objectcache.pages import populate


def check_memory(descriptor: int) -> int:
    """The size of a client's memory in bytes. Raises SharedMemoryRefusedError unless it can be mapped without fear."""
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError as error:
        raise SharedMemoryRefusedError("the memory is no memfd that can be sealed") from error
    if seals & SEALS != SEALS:
        raise SharedMemoryRefusedError("the memory is not sealed against shrinking, growing and further seals")
    if seals & (fcntl.F_SEAL_WRITE | F_SEAL_FUTURE_WRITE):
        raise SharedMemoryRefusedError("the memory is sealed against writing")
    size_bytes = os.fstat(descriptor).st_size
    if not size_bytes:
        raise SharedMemoryRefusedError("the memory is empty")
    return size_bytes


F_SEAL_FUTURE_WRITE = 0x10
"""Since Linux 5.1."""


class ClientMemory:
    """A client's memory, mapped here. `view` is all of it."""

    def __init__(self, descriptor: int) -> None:
        """`descriptor` stays the caller's. Raises SharedMemoryRefusedError."""
        self.size_bytes = check_memory(descriptor)
        try:
            self._map = mmap.mmap(descriptor, self.size_bytes)
        except OSError as error:
            raise SharedMemoryRefusedError(f"the memory cannot be mapped: {error.strerror}") from error
        self.view = memoryview(self._map)

    def populate(self) -> None:
        """Enter all pages into the mapping now, for a client whose pages are there already."""
        populate(self.view)

    def close(self) -> None:
        """Nobody writes it any more. Harmless twice."""
        with suppress(BufferError):  # a view in a traceback: the mapping goes with it
            self.view.release()
            self._map.close()
