"""Rows of bytes, evenly apart here and there: what a device's copy engine moves in one go, without staging or a kernel.

Blocks of a sequence that lie one behind the other, or evenly apart, are few such copies; blocks strewn about are many.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from objectcache.errors import DeliveryError

LEAST_ROW_BYTES = 4 << 10
"""Shorter rows are moved slower than a kernel puts them in place."""
_TO_DEVICE = 1  # cudaMemcpyHostToDevice


class StridedCopy(NamedTuple):
    """`rows` rows of `row_bytes`, whose beginnings are `target_pitch_bytes` and `source_pitch_bytes` apart. `target` is
    an address, or bytes from where the cache begins; `source` is bytes from the first slice on."""

    target: int
    target_pitch_bytes: int
    source: int
    source_pitch_bytes: int
    row_bytes: int
    rows: int

    def moved(self, target: int, source: int) -> StridedCopy:
        """Both so many bytes further."""
        return self._replace(target=self.target + target, source=self.source + source)


def strided_copies(
    targets: npt.NDArray[np.int64], sources: npt.NDArray[np.int64], row_bytes: int, most: int
) -> tuple[StridedCopy, ...] | None:
    """Rows of `row_bytes`, row i from `sources[i]` to `targets[i]`, in as few copies as greedy gathering gives; None
    where these are more than `most`.

    Rows that follow one another in both become one, and equal ones that are evenly apart, forwards, one copy.
    """
    joined = (np.diff(targets) == row_bytes) & (np.diff(sources) == row_bytes)
    begins = np.concatenate(([0], np.flatnonzero(~joined) + 1))
    lengths = np.diff(np.append(begins, len(targets))) * row_bytes
    to, of = targets[begins], sources[begins]
    copies: list[StridedCopy] = []
    at = 0
    while at < len(to):
        if len(copies) == most:
            return None
        rows = _alike(to[at:], of[at:], lengths[at:])
        pitches = (int(to[at + 1] - to[at]), int(of[at + 1] - of[at])) if rows > 1 else (int(lengths[at]),) * 2
        copies.append(StridedCopy(int(to[at]), pitches[0], int(of[at]), pitches[1], int(lengths[at]), rows))
        at += rows
    return tuple(copies)


def _alike(targets: npt.NDArray[np.int64], sources: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> int:
    """How many from the first on are of one length and evenly apart."""
    if len(targets) < 2 or lengths[1] != lengths[0]:
        return 1
    pitches = targets[1] - targets[0], sources[1] - sources[0]
    if min(pitches) < lengths[0]:  # backwards: there is no such copy
        return 1
    even = (np.diff(targets) == pitches[0]) & (np.diff(sources) == pitches[1]) & (lengths[1:] == lengths[0])
    return int(np.argmin(even)) + 1 if not even.all() else len(targets)


def copies_to_device() -> bool:
    """Whether `copy_to_device` can be called: CUDA's runtime, which torch has loaded, is found."""
    return _runtime(holding=False) is not None


def copy_to_device(copies: Sequence[StridedCopy], source: int, stream: Any, *, pinned: bool) -> None:
    """Queue them in `stream`, a torch.cuda.Stream that is the current one; `source` is the address of the first slice.

    From `pinned` memory the interpreter lock is kept: to get it back from a busy engine takes longer than to queue a
    copy. From other memory the call copies. Raises DeliveryError.
    """
    memcpy = _runtime(holding=pinned)
    for copy in copies:
        code = memcpy(
            copy.target,
            copy.target_pitch_bytes,
            source + copy.source,
            copy.source_pitch_bytes,
            copy.row_bytes,
            copy.rows,
            _TO_DEVICE,
            stream.cuda_stream,
        )
        if code:
            raise DeliveryError(f"CUDA does not copy to the device: error {code}")


@lru_cache(maxsize=2)
def _runtime(*, holding: bool) -> Any:
    """cudaMemcpy2DAsync, or None; `holding` the interpreter lock."""
    version = torch.version.cuda
    if version is None:
        return None
    try:
        # Loaded already, so that the name is enough, wherever it lies.
        library = ctypes.PyDLL if holding else ctypes.CDLL
        memcpy = library(f"libcudart.so.{version.split('.')[0]}").cudaMemcpy2DAsync
    except (OSError, AttributeError):
        return None
    size, pointer = ctypes.c_size_t, ctypes.c_void_p
    memcpy.argtypes = (pointer, size, pointer, size, size, size, ctypes.c_int, pointer)
    memcpy.restype = ctypes.c_int
    return memcpy
