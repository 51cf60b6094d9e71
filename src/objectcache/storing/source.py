"""Where a layer's slices come from."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from objectcache.errors import LayoutError
from objectcache.integrity import Buffer


@runtime_checkable
class LayerSource(Protocol):
    """One layer of one part, on its way out of the engine."""

    def copy_into(self, memory: memoryview) -> None:
        """Fill `memory` (bytes, writable) with the slices of all chunks, in chunk order.

        Called once, in a storing thread. May block, for the layer to be computed or copied by a device; should not
        hold the interpreter lock for longer than tens of microseconds.
        """


class BufferSource:
    """A layer that lies in host memory, contiguous. It must not change until it was copied."""

    def __init__(self, data: Buffer) -> None:
        self._data = memoryview(data).cast("B")

    def copy_into(self, memory: memoryview) -> None:
        if len(self._data) != len(memory):
            raise LayoutError(f"the layer's slices are {len(memory)} bytes, got {len(self._data)}")
        # Not memoryview's own assignment, which holds the interpreter lock meanwhile.
        np.copyto(np.frombuffer(memory, np.uint8), np.frombuffer(self._data, np.uint8))


def source_of(data: LayerSource | Buffer) -> LayerSource:
    return data if isinstance(data, LayerSource) else BufferSource(data)
