"""Reading the engine's memory from the storing process: a copy in which no thread of the engine has a part. Linux."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path

import numpy as np

from objectcache.errors import ObjectCacheError

PROBE = os.urandom(16)
"""What a storing process reads to see whether it may."""
_PTRACE_SCOPE = Path("/proc/sys/kernel/yama/ptrace_scope")
_PR_SET_PTRACER = 0x59616D61


class _Range(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


def address_of(data: memoryview) -> int:
    """Where contiguous bytes begin."""
    if not data.readonly:  # as an engine's memory is: a quarter of the time, in a thread that computes
        return ctypes.addressof(ctypes.c_char.from_buffer(data))
    return int(np.frombuffer(data, np.uint8).__array_interface__["data"][0])


def let_read(pid: int) -> None:
    """Let the process `pid`, which this one has started, read the memory of this one, where that needs leave."""
    with suppress(OSError, AttributeError):
        if _PTRACE_SCOPE.read_text().strip() == "1":
            ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(pid), 0, 0, 0)


class EngineMemory:
    """The memory of process `pid`. Raises ObjectCacheError where it cannot be read, or not any more."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._read = ctypes.CDLL(None, use_errno=True).process_vm_readv
        self._read.restype = ctypes.c_ssize_t

    def copy(self, address: int, out: memoryview) -> None:
        """Fill `out` with what lies at `address`. Without the interpreter lock of either process."""
        one = ctypes.c_ulong(1)
        done, target = 0, ctypes.addressof(ctypes.c_char.from_buffer(out))
        while done < len(out):
            mine = _Range(target + done, len(out) - done)
            theirs = _Range(address + done, len(out) - done)
            count = self._read(self._pid, ctypes.byref(mine), one, ctypes.byref(theirs), one, ctypes.c_ulong(0))
            if count <= 0:
                raise ObjectCacheError(f"the engine's memory cannot be read: {os.strerror(ctypes.get_errno())}")
            done += count

    def may_read(self, address: int, expected: bytes) -> bool:
        """Whether it can be read, and is what it should be."""
        found = memoryview(bytearray(len(expected)))
        try:
            self.copy(address, found)
        except ObjectCacheError:
            return False
        return bytes(found) == expected
