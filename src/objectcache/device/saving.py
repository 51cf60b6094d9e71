"""Layers of the engine's cache, on to host memory, beside the compute that goes on.

saver = DeviceSaver(device)                       # once
source = saver.source(caches[layer].at(table))    # where the layer has been queued, on the compute stream
source.copy_into(memory)                          # later, in a storing thread
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from objectcache.device.places import Place
from objectcache.device.staging import Slot, StagingRing
from objectcache.device.streams import Event, Lane, current_mark, exact_device, host_wait
from objectcache.errors import LayoutError, ObjectCacheError


class DeviceSaver:
    """Moves layers off one device: a stream of gathers, a stream of copies, staging memory between them. Thread-safe.

    Takes `num_staging` times `staging_bytes` of the device's memory, and as much pinned memory of the host's once
    something is copied to memory that is not pinned.
    """

    def __init__(
        self,
        device: torch.device | str,
        *,
        staging_bytes: int = 16 << 20,
        num_staging: int = 2,
        staged: bool | None = None,
    ) -> None:
        """`staged` says whether there is staging (default: not on the CPU). Raises NotSupportedError."""
        self.device = exact_device(device)
        self._staged = self.device.type != "cpu" if staged is None else staged
        self._gathers = Lane(self.device)
        self._copies = Lane(self.device)
        self._ring = StagingRing(self.device, staging_bytes, num_staging, self._gathers)
        self._lock = threading.Lock()

    def moment(self, stream: Any = None) -> Event:
        """When what `stream` (default: the current one) holds by now is done: for sources that another thread makes."""
        return current_mark(self.device, stream)

    def source(
        self,
        place: Place,
        *,
        stream: Any = None,
        after: Event = None,
        on_copied: Callable[[], None] = lambda: None,
    ) -> DeviceLayerSource:
        """`place` as it is when what `stream` (default: the current one) holds by now is done, or `after` has come.

        Must not be written until `on_copied` was called, which happens once, in whatever thread: when it was copied,
        dropped, or forgotten. Raises LayoutError for a place on another device.
        """
        if place.device != self.device:
            raise LayoutError(f"the place is on {place.device}, not on {self.device}")
        produced = current_mark(self.device, stream) if after is None else after
        return DeviceLayerSource(self, place, produced, on_copied)

    def move(self, place: Place, produced: Event, out: torch.Tensor) -> None:
        """Fill `out`, uint8 [num_chunks, slice_bytes] in host memory; returns when it is."""
        host_wait(produced)  # before the lock is taken: others are saved meanwhile
        if not self._staged:
            place.gather(out, 0)
            return
        with self._lock:
            if out.is_pinned():
                self._straight(place, out)
            else:
                self._by_pinned_memory(place, out)

    def _straight(self, place: Place, out: torch.Tensor) -> None:
        slot: Slot | None = None
        for slot, first, stop in self._ring.pieces(*out.shape):
            self._queue(place, slot, first, out[first:stop])
        if slot is not None:
            host_wait(slot.freed)  # and so are all before it

    def _by_pinned_memory(self, place: Place, out: torch.Tensor) -> None:
        """Copies straight to memory that is not pinned would be the driver's: slow, and in the way of launches."""
        passing: deque[tuple[Slot, int, int]] = deque()

        def arrive() -> None:
            slot, first, stop = passing.popleft()
            host_wait(slot.freed)
            np.copyto(out[first:stop].numpy(), slot.host_slices(stop - first, out.shape[1]).numpy())

        for slot, first, stop in self._ring.pieces(*out.shape):
            if passing and passing[0][0] is slot:
                arrive()
            self._queue(place, slot, first, slot.host_slices(stop - first, out.shape[1]))
            passing.append((slot, first, stop))
        while passing:
            arrive()

    def _queue(self, place: Place, slot: Slot, first: int, target: torch.Tensor) -> None:
        staged = slot.slices(*target.shape)
        with self._gathers():
            self._gathers.wait(slot.freed)
            place.gather(staged, first)
            slot.filled = self._gathers.mark(slot.filled)
        with self._copies():
            self._copies.wait(slot.filled)
            target.copy_(staged, non_blocking=True)
            slot.freed = self._copies.mark(slot.freed)


class DeviceLayerSource:
    """One layer of one part, for whoever stores it: a LayerSource of `objectcache.storing`."""

    def __init__(self, saver: DeviceSaver, place: Place, produced: Event, on_copied: Callable[[], None]) -> None:
        self.num_chunks = place.num_chunks
        self.slice_bytes = place.slice_bytes
        self._saver = saver
        self._place: Place | None = place
        self._produced = produced
        self._on_copied = on_copied
        self._copied = threading.Event()
        self._lock = threading.Lock()

    @property
    def num_bytes(self) -> int:
        return self.num_chunks * self.slice_bytes

    @property
    def copied(self) -> bool:
        """Whether the engine may use the place again."""
        return self._copied.is_set()

    def wait_copied(self, timeout_s: float | None = None) -> bool:
        """Whether it may within `timeout_s`."""
        return self._copied.wait(timeout_s)

    def copy_into(self, memory: memoryview) -> None:
        """Fill `memory` (writable, `num_bytes` of it) with the slices in chunk order. Blocks the calling thread only.

        Fastest where `memory` is pinned. Once. Raises LayoutError for memory that is too small, ObjectCacheError when
        the copy fails; the place is then free all the same.
        """
        if memory.nbytes < self.num_bytes:
            raise LayoutError(f"{memory.nbytes} bytes of memory do not hold a layer of {self.num_bytes}")
        with self._lock:
            if self._place is None:
                raise ObjectCacheError("the layer was copied or dropped already: its place may hold something else")
            try:
                with torch.inference_mode():
                    flat = torch.frombuffer(memory, dtype=torch.uint8, count=self.num_bytes)
                    self._saver.move(self._place, self._produced, flat.view(self.num_chunks, self.slice_bytes))
            except RuntimeError as error:
                raise ObjectCacheError(f"a layer could not be copied from {self._saver.device}: {error}") from error
            finally:
                self._finish()

    def drop(self) -> None:
        """It will not be copied. Harmless afterwards; waits for a copy under way."""
        with self._lock:
            self._finish()

    def __del__(self) -> None:
        # Whoever stores may give a layer up by just forgetting it; the engine waits for its blocks all the same.
        self._finish()

    def _finish(self) -> None:
        if self._place is not None:
            self._place = None
            self._copied.set()
            self._on_copied()
