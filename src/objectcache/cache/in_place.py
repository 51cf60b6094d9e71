"""What of a delivery is read where the local tier has it, rather than in the destination."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from objectcache.layout import DeliveryGeometry

Slices = npt.NDArray[np.uint8]
"""uint8 [chunks, slice_bytes]."""


class InPlace:
    """Chunks of parts and layers that are not in `memory`, the destination, but in mappings of the tier's. They are
    only read. Thread-safe, once all are `put`."""

    def __init__(self, geometry: DeliveryGeometry, memory: memoryview) -> None:
        self._geometry = geometry
        self._memory = memory
        self._blocks: dict[tuple[int, int], list[tuple[int, Slices]]] = {}
        self._brought: set[tuple[int, int]] = set()
        self._lock = threading.Lock()

    def put(self, part: int, layer: int, first: int, slices: Slices) -> None:
        """Chunks from `first` on are `slices`. Ascending."""
        self._blocks.setdefault((part, layer), []).append((first, slices))

    def blocks(self, part: int, layer: int, first: int, stop: int) -> Iterator[Slices]:
        """Chunks [first, stop), in as many arrays as they lie in: no copy."""
        whole = self._landed(part, layer)
        at = first
        for begin, slices in self._blocks.get((part, layer), ()):
            end = begin + len(slices)
            if end <= at or begin >= stop:
                continue
            if at < begin:
                yield whole[at:begin]
                at = begin
            until = min(end, stop)
            yield slices[at - begin : until - begin]
            at = until
        if at < stop:
            yield whole[at:stop]

    def bring(self, part: int, layer: int) -> None:
        """Copy all of them to the destination, once, for somebody who wants them there."""
        with self._lock:
            if (part, layer) not in self._brought:
                self._brought.add((part, layer))
                self._copy(part, layer, 0, self._geometry.parts[part].num_chunks)

    def bring_chunks(self, part: int, layer: int, first: int, stop: int) -> None:
        """Copy those among chunks [first, stop)."""
        with self._lock:
            if (part, layer) not in self._brought:
                self._copy(part, layer, first, stop)

    def _copy(self, part: int, layer: int, first: int, stop: int) -> None:
        blocks = self._blocks.get((part, layer))
        if not blocks:
            return
        whole = self._landed(part, layer)
        for begin, slices in blocks:
            low, high = max(first, begin), min(stop, begin + len(slices))
            if low < high:
                np.copyto(whole[low:high], slices[low - begin : high - begin])

    def _landed(self, part: int, layer: int) -> Slices:
        """The layer in the destination."""
        start, size = self._geometry.offset(part, layer), self._geometry.layer_bytes(part, layer)
        flat = np.frombuffer(self._memory[start : start + size], dtype=np.uint8)
        return flat.reshape(self._geometry.parts[part].num_chunks, -1)
