"""What a local tier holds of a prefix, on its way to the device while the storage side is still asked what matches."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import Any

import torch

from objectcache.cache.ahead import Ahead
from objectcache.cache.in_place import Slices
from objectcache.device.places import Place
from objectcache.device.queueing import MoveQueue
from objectcache.device.streams import Event, current_wait, host_wait, on_device, timed_event
from objectcache.errors import LayoutError


class DeviceAhead(Ahead, AbstractContextManager["DeviceAhead"]):
    """Of one request: made by `DeviceLoader.ahead`, given to `match_and_retrieve`, and then to `load` with what that
    returned. Its context is left after that, or when nothing is loaded. Thread-safe."""

    def __init__(
        self,
        queue: MoveQueue,
        device: torch.device,
        places: Mapping[tuple[int, int], Place],
        after: Event,
        *,
        stream: Any,
        timed: bool,
    ) -> None:
        self.queue = queue
        self._device = device
        self._places = places
        self._after = after
        self._stream = stream
        self._timed = timed
        self._lock = threading.Lock()
        self._begun = False
        self._ended = False
        """Nothing is taken any more."""
        self._handed_over = False
        """Another answers for the places."""
        self.taken: dict[tuple[int, int], int] = {}
        """By (index of the part, layer): chunks, from the first on."""
        self.events: dict[int, Event] = {}
        """By layer: when what was taken of it is in place."""
        self.copied: Event = None
        self.placed: Event = None
        """When nothing reads what was taken, and when all of it is in place."""

    def begin(self) -> bool:
        """Not where the places are still used."""
        with self._lock:
            first, self._begun = not self._begun, True
            return first and not self._ended and (self._after is None or bool(self._after.query()))

    def take(self, part: int, layer: int, blocks: Sequence[Slices]) -> None:
        """Queue copies to the place, if it has one. Raises LayoutError where that takes less, and what torch raises."""
        with self._lock:
            place = self._places.get((part, layer))
            if self._ended or place is None:
                return
            chunks = sum(map(len, blocks))
            if chunks > place.num_chunks or any(block.shape[1] != place.slice_bytes for block in blocks):
                raise LayoutError(
                    f"layer {layer} of part {part} is held in {chunks} slices; its place takes {place.num_chunks} of "
                    f"{place.slice_bytes} bytes"
                )
            event = self.events.get(layer)
            if event is None and self._timed:
                event = timed_event()
            with on_device(self._device), torch.inference_mode():  # only in it can caches that engines made be written
                self.copied, self.placed = self.queue.move(blocks, place, 0, event)
            self.events[layer] = self.placed
            self.taken[part, layer] = chunks

    def wait(self) -> None:
        with self._lock:
            self._ended = True
            copied = self.copied
        with suppress(RuntimeError):  # torch's: a device that is lost copies nothing
            host_wait(copied)

    def wait_placed(self) -> None:
        """Nothing is taken any more, and the host waits until all is in place."""
        self.wait()
        host_wait(self.placed)

    def hand_over(self) -> None:
        """Who loads the rest answers for it from here on."""
        with self._lock:
            self._ended = self._handed_over = True

    def forbid(self, *, stream: Any = None) -> None:
        """No place is written by anything that comes after this call in `stream` (default: that of `ahead`)."""
        with self._lock:
            self._ended = True
        current_wait(self._device, self.placed, stream or self._stream)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._handed_over:
            self.forbid()
