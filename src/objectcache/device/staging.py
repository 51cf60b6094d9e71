"""Buffers on the device, used in turn, that layers pass through piece by piece: bounded memory, whatever their size."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from objectcache.device.streams import Event, Lane, host_wait


class Slot:
    """One buffer. `filled` and `freed` are the moments of its latest use."""

    def __init__(self, memory: torch.Tensor) -> None:
        self._memory = memory
        self._host: torch.Tensor | None = None
        self._cut: tuple[int, int] = (0, 0)
        self._slices = memory
        self.filled: Event = None
        self.freed: Event = None

    def slices(self, count: int, slice_bytes: int) -> torch.Tensor:
        """uint8 [count, slice_bytes] of it."""
        if self._cut != (count, slice_bytes):  # as the last time, mostly
            self._slices = self._view(count, slice_bytes)
            self._cut = count, slice_bytes
        return self._slices

    def _view(self, count: int, slice_bytes: int) -> torch.Tensor:
        return self._memory[: count * slice_bytes].view(count, slice_bytes)

    def host_slices(self, count: int, slice_bytes: int) -> torch.Tensor:
        """The same of a pinned buffer of the host's, as large; taken with the first use."""
        if self._host is None:
            self._host = torch.empty_like(self._memory, device="cpu", pin_memory=self._memory.is_cuda)
        return self._host[: count * slice_bytes].view(count, slice_bytes)


class StagingRing:
    """`num_slots` buffers of `slot_bytes`, or of a slice where that is larger. Whoever uses it holds a lock."""

    def __init__(self, device: torch.device, slot_bytes: int, num_slots: int, lane: Lane) -> None:
        """Memory is taken in `lane`, with the first use."""
        self._device = device
        self._slot_bytes = slot_bytes
        self._num_slots = num_slots
        self._lane = lane
        self._slots: list[Slot] = []
        self._next = 0

    def pieces(self, num_chunks: int, slice_bytes: int) -> Iterator[tuple[Slot, int, int]]:
        """A layer cut into runs of whole chunks [first, stop), each with the slot that it passes through."""
        if not self._slots or slice_bytes > self._slot_bytes:
            self._grow(slice_bytes)
        step = self._slot_bytes // slice_bytes
        for first in range(0, num_chunks, step):
            slot = self._slots[self._next]
            self._next = (self._next + 1) % self._num_slots
            yield slot, first, min(first + step, num_chunks)

    def _grow(self, slice_bytes: int) -> None:
        for slot in self._slots:
            host_wait(slot.freed)  # the memory may be had again at once, and used in another stream than the old
        self._slot_bytes = max(self._slot_bytes, slice_bytes)
        self._slots.clear()
        with self._lane():
            for _ in range(self._num_slots):
                memory = torch.empty(self._slot_bytes, dtype=torch.uint8, device=self._device)
                self._slots.append(Slot(memory))
        self._next = 0
