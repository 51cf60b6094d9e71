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
"""Shorter rows are left to a kernel."""
_MOST_PITCH_BYTES = (1 << 31) - 1
"""CUDA's limit."""
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
        to, to_pitch_bytes, of, *size = self
        return StridedCopy(to + target, to_pitch_bytes, of + source, *size)


Offsets = npt.NDArray[np.int64]
"""int64 [rows], in bytes."""


class Rows:
    """Rows of `row_bytes`, row i from `sources[i]` to `targets[i]`: runs of them as copies."""

    def __init__(self, targets: Offsets, sources: Offsets, row_bytes: int) -> None:
        self._targets, self._sources, self._row_bytes = targets, sources, row_bytes
        pitches = np.diff(targets), np.diff(sources)
        uneven = (np.diff(pitches[0]) != 0) | (np.diff(pitches[1]) != 0)
        self._uneven = np.flatnonzero(uneven) + 1
        """Rows that are apart from the next as they are not from the one before."""

    def copies(self, first: int, stop: int, most: int) -> tuple[StridedCopy, ...] | None:
        """Rows [first, stop), with `source` from the first of them on, in as few copies as greedy gathering gives; None
        where these are more than `most`.

        Rows that follow one another in both become one, and equal ones that are evenly apart, forwards, one copy.
        """
        targets, sources = self._targets[first:stop], self._sources[first:stop] - self._sources[first]
        turn = int(np.searchsorted(self._uneven, first, side="right"))
        if turn == len(self._uneven) or self._uneven[turn] >= stop - 1:
            even = _even(targets, sources, self._row_bytes)
            if even is not None:
                return (even,) if most else None
        return _gathered(targets, sources, self._row_bytes, most)


def _even(targets: Offsets, sources: Offsets, row_bytes: int) -> StridedCopy | None:
    """All of them, that are evenly apart, as one; None where there is no such copy."""
    target, source, rows = int(targets[0]), int(sources[0]), len(targets)
    if rows == 1:
        return StridedCopy(target, row_bytes, source, row_bytes, row_bytes, 1)
    pitches = int(targets[1]) - target, int(sources[1]) - source
    if pitches == (row_bytes, row_bytes):
        return StridedCopy(target, rows * row_bytes, source, rows * row_bytes, rows * row_bytes, 1)
    if min(pitches) < row_bytes or max(pitches) > _MOST_PITCH_BYTES:
        return None
    return StridedCopy(target, pitches[0], source, pitches[1], row_bytes, rows)


def _gathered(targets: Offsets, sources: Offsets, row_bytes: int, most: int) -> tuple[StridedCopy, ...] | None:
    joined = (np.diff(targets) == row_bytes) & (np.diff(sources) == row_bytes)
    begins = np.concatenate(([0], np.flatnonzero(~joined) + 1))
    lengths = np.diff(np.append(begins, len(targets))) * row_bytes
    to, of = targets[begins], sources[begins]
    copies: list[StridedCopy] = []
    at = 0
    while at < len(to):
        if len(copies) == most:
            return None
        length = int(lengths[at])
        rows = _alike(to[at:], of[at:], lengths[at:])
        even = _even(to[at : at + rows], of[at : at + rows], length)
        if even is None:
            rows, even = 1, _even(to[at : at + 1], of[at : at + 1], length)
            assert even is not None, "a row alone is a copy"
        copies.append(even)
        at += rows
    return tuple(copies)


def _alike(targets: Offsets, sources: Offsets, lengths: Offsets) -> int:
    """How many from the first on are of one length and evenly apart."""
    if len(targets) < 2 or lengths[1] != lengths[0]:
        return 1
    pitches = targets[1] - targets[0], sources[1] - sources[0]
    even = (np.diff(targets) == pitches[0]) & (np.diff(sources) == pitches[1]) & (lengths[1:] == lengths[0])
    return int(np.argmin(even)) + 1 if not even.all() else len(targets)


class _Runtime(NamedTuple):
    """Of CUDA."""

    memcpy: Any
    last_error: Any


def copies_to_device() -> bool:
    """Whether `copy_to_device` can be called: CUDA's runtime, which torch has loaded, is found."""
    return _runtime(holding=False) is not None


def copy_to_device(copies: Sequence[StridedCopy], source: int, stream: Any, *, pinned: bool) -> None:
    """Queue them in `stream`, a torch.cuda.Stream of the current device; `source` is the address of the first slice.

    From `pinned` memory the interpreter lock is kept: to get it back from a busy engine takes longer than to queue a
    copy. From other memory the call copies. Raises DeliveryError.
    """
    runtime = _runtime(holding=pinned)
    if runtime is None:
        raise DeliveryError("CUDA's runtime is not there")
    for copy in copies:
        code = runtime.memcpy(
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
            runtime.last_error()  # or torch would take it for one of its own
            raise DeliveryError(f"CUDA does not copy to the device: error {code}")


@lru_cache(maxsize=2)
def _runtime(*, holding: bool) -> _Runtime | None:
    """`holding` the interpreter lock."""
    version = torch.version.cuda
    if version is None:
        return None
    try:
        library = ctypes.PyDLL if holding else ctypes.CDLL
        # Loaded already, so that the name is enough, wherever it lies.
        cudart = library(f"libcudart.so.{version.split('.')[0]}")
        memcpy, last_error = cudart.cudaMemcpy2DAsync, cudart.cudaGetLastError
    except (OSError, AttributeError):
        return None
    size, pointer = ctypes.c_size_t, ctypes.c_void_p
    memcpy.argtypes = (pointer, size, pointer, size, size, size, ctypes.c_int, pointer)
    memcpy.restype = last_error.restype = ctypes.c_int
    return _Runtime(memcpy, last_error)
