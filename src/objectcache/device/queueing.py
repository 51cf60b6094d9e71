"""What brings slices from host memory to their places on a device, queued on streams of its own, in order."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from objectcache.device.places import Place
from objectcache.device.staging import StagingRing
from objectcache.device.streams import Event, Lane, host_wait
from objectcache.device.strided import StridedCopy, copies_to_device

_MOST_COPIES = 256
"""With which a section goes straight to its place: it may lie in as many files of the local tier."""
_MOST_QUEUED = 512
"""Copies that CUDA surely has room for."""


class MoveQueue:
    """A stream of copies, a stream of scatters, staging memory between them. Thread-safe.

    Places are written in the order of `move`, whichever way each goes.
    """

    def __init__(
        self,
        device: torch.device,
        staging_bytes: int,
        num_staging: int,
        *,
        staged: bool | None = None,
        strided: bool | None = None,
    ) -> None:
        """`staged`, `strided`: as `DeviceLoader`. Raises NotSupportedError for other devices than CPUs and CUDA's."""
        self._staged = device.type != "cpu" if staged is None else staged
        self._strided = device.type == "cuda" and copies_to_device() if strided is None else strided
        self._copies = Lane(device)
        self._scatters = Lane(device, high=True)
        self._ring = StagingRing(device, staging_bytes, num_staging, self._copies)
        self._lock = threading.Lock()
        self._scattered: Event = None
        """The latest scatter, unless copies wait for it already."""
        self._queued = 0
        """Copies straight to a place, since the host last waited for all of them."""

    def move(
        self, blocks: Sequence[npt.NDArray[np.uint8]], place: Place, first: int, placed: Event
    ) -> tuple[Event, Event]:
        """Queue slices, uint8 [chunks, slice_bytes] each in host memory, one array behind the other, for the chunks of
        `place` from `first` on.

        Returns the moments when the host memory is free, and when the place has them: the latter is the given event, if
        any, set anew; the former may be the same one.
        """
        slices = [torch.from_numpy(block) for block in blocks]
        if not self._staged:
            for block in slices:
                place.scatter(block, first)
                first += block.shape[0]
            return None, None
        with self._lock:
            try:
                straight = self._straight(slices, place, first) if self._strided else None
                if straight is not None:
                    return self._copy(straight, placed)
                return self._stage(slices, place, first, placed)
            except BaseException:
                # What is queued by now nobody would have a moment of: it reads the memory and writes the place.
                host_wait(self._copies.mark())
                host_wait(self._scatters.mark())
                raise

    def _stage(self, slices: Sequence[torch.Tensor], place: Place, first: int, placed: Event) -> tuple[Event, Event]:
        """By staging memory, and a kernel."""
        for slot, begin, stop in self._ring.pieces(sum(map(len, slices)), place.slice_bytes):
            staged = slot.slices(stop - begin, place.slice_bytes)
            with self._copies():
                self._copies.wait(slot.freed)
                for target, source in _alongside(staged, slices, begin):
                    target.copy_(source, non_blocking=True)
                slot.filled = self._copies.mark(slot.filled)
            with self._scatters():
                self._scatters.wait(slot.filled)
                place.scatter(staged, first + begin)
                slot.freed = self._scatters.mark(slot.freed)
        self._scattered = self._scatters.mark(placed)
        return self._copies.mark(), self._scattered

    def _straight(
        self, slices: Sequence[torch.Tensor], place: Place, first: int
    ) -> list[tuple[Sequence[StridedCopy], torch.Tensor]] | None:
        """The copies of each that take them straight to their place, if they are few."""
        found: list[tuple[Sequence[StridedCopy], torch.Tensor]] = []
        total = 0
        for block in slices:
            stop = first + block.shape[0]
            copies = place.copies(first, stop)
            if copies is None or (total := total + len(copies)) > _MOST_COPIES:
                return None
            found.append((copies, block))
            first = stop
        return found

    def _copy(
        self, straight: Sequence[tuple[Sequence[StridedCopy], torch.Tensor]], placed: Event
    ) -> tuple[Event, Event]:
        self._queued += sum(len(copies) for copies, _ in straight)
        if self._queued > _MOST_QUEUED:
            # Where CUDA has no room for more it keeps the caller, who may keep the interpreter's lock.
            host_wait(self._copies.mark())
            self._queued = 0
        self._copies.wait(self._scattered)
        self._scattered = None
        for copies, block in straight:
            self._copies.copy(copies, block)
        moment = self._copies.mark(placed)  # each call costs
        return moment, moment


def _alongside(
    staged: torch.Tensor, blocks: Sequence[torch.Tensor], first: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """`staged` cut beside the blocks that it is to take, from slice `first` of all of them on."""
    at = -first  # of a block's first slice, in `staged`
    wanted = staged.shape[0]
    for block in blocks:
        begin, end = max(0, at), min(wanted, at + block.shape[0])
        if begin < end:
            yield (
                staged if end - begin == wanted else staged[begin:end],
                block if end - begin == block.shape[0] else block[begin - at : end - at],
            )
        at += block.shape[0]
