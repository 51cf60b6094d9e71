"""Pinning memory that somebody else has mapped, so that copies to and from a CUDA device are asynchronous."""

from __future__ import annotations

import threading
from bisect import bisect_right, insort
from collections.abc import Callable
from typing import Any

import torch

from objectcache.errors import ConfigError

_CUDA: Any = torch.cuda  # untyped
_PORTABLE = 1  # cudaHostRegisterPortable: pinned for all devices of the process


class PinnedRanges:
    """What this process has pinned: asked here, since to ask CUDA lets go of the interpreter lock. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ranges: list[tuple[int, int]] = []  # of addresses [start, stop), ascending

    def add(self, address: int, length: int) -> None:
        with self._lock:
            insort(self._ranges, (address, address + length))

    def remove(self, address: int, length: int) -> None:
        with self._lock:
            self._ranges.remove((address, address + length))

    def holds(self, address: int, length: int) -> bool:
        """Whether all of it is in one of the ranges."""
        with self._lock:
            index = bisect_right(self._ranges, address, key=lambda pinned: pinned[0])
            return index > 0 and address + length <= self._ranges[index - 1][1]


PINNED = PinnedRanges()


def cuda_registrar(address: int, length: int) -> Callable[[], None]:
    """Pin `length` bytes at `address`; what comes back undoes it. For `KVCache.register_buffers`.

    The pages are taken from the system now: seconds for many gigabytes. Raises ConfigError where they cannot be had.
    """
    cudart = _CUDA.cudart()
    code = int(cudart.cudaHostRegister(address, length, _PORTABLE))
    if code:
        raise ConfigError(
            f"{length} bytes could not be pinned ({cudart.cudaGetErrorString(cudart.cudaError(code))}): less "
            "buffer_bytes, or more memory that may be locked"
        )

    PINNED.add(address, length)

    def undo() -> None:
        PINNED.remove(address, length)
        cudart.cudaHostUnregister(address)

    return undo
