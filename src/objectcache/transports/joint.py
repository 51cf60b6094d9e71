"""One delivery received by several processes: each has some of its streams, and says on a shared board what it got.

A process knows by the board when a unit is whole, whoever received the rest of it. Pure, as `delivery` is.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

import numpy as np

from objectcache.delivery import Reception
from objectcache.errors import DeliveryError
from objectcache.frames import Frame
from objectcache.layout import DeliveryGeometry, align_up

_COUNT_BYTES = 8


class ArrivalBoard:
    """For each member (a process): which chunks of which layer it has begun to receive, a byte each, and how many of
    each unit's it has verified. Only that process writes them."""

    def __init__(self, geometry: DeliveryGeometry, memory: memoryview, members: int, from_layer: int = 0) -> None:
        """`memory`: `size_bytes` bytes, which the processes share; zeros at first."""
        units, chunks = len(geometry.units), _chunks(geometry)
        counts_bytes = members * units * _COUNT_BYTES
        self._counts = np.frombuffer(memory[:counts_bytes], dtype=np.int64).reshape(members, units)
        begun = np.frombuffer(memory[counts_bytes : counts_bytes + members * chunks], dtype=np.uint8)
        self._begun = begun.reshape(members, chunks)
        self._wanted = np.zeros(units, dtype=np.int64)
        self._at: dict[tuple[int, int], int] = {}
        self._fence = threading.Lock()
        at = 0
        for unit, layers in enumerate(geometry.units):
            for layer in layers:
                for part in geometry.parts_of(layer):
                    shape = geometry.parts[part]
                    self._at[part, layer] = at
                    at += shape.num_chunks
                    if layer >= from_layer:
                        self._wanted[unit] += shape.num_chunks - shape.held_chunks(layer)

    @staticmethod
    def size_bytes(geometry: DeliveryGeometry, members: int) -> int:
        return align_up(members * (len(geometry.units) * _COUNT_BYTES + _chunks(geometry)))

    def begin(self, member: int, frame: Frame) -> None:
        """Before the first byte of a span is written. Raises DeliveryError where another member has begun any of it."""
        first = self._at[frame.part, frame.layer] + frame.first_chunk
        span = self._begun[:, first : first + frame.num_chunks]
        span[member] = 1
        self.fence()
        if np.count_nonzero(span) > frame.num_chunks:
            raise DeliveryError(f"chunks from {frame.first_chunk} on of layer {frame.layer} were sent twice")

    def verified(self, member: int, frame: Frame, unit: int) -> None:
        self._counts[member, unit] += frame.num_chunks

    def fence(self) -> None:
        """What was written before is seen by the other processes before what follows is read: of two that mark the last
        chunks of a unit at once, one sees both."""
        with self._fence:
            pass

    def is_whole(self, unit: int) -> bool:
        return bool(self._counts[:, unit].sum() >= self._wanted[unit])

    @property
    def whole(self) -> bool:
        return bool((self._counts.sum(axis=0) >= self._wanted).all())


class JointReception(Reception):
    """What the process with some of a delivery's streams knows of it.

    It is fenced here when its own streams have ended. That the delivery ended before all had arrived is for whoever
    hears from all processes to say.
    """

    def __init__(
        self,
        geometry: DeliveryGeometry,
        epoch: int,
        streams: Iterable[int],
        board: ArrivalBoard,
        member: int,
        from_layer: int = 0,
    ) -> None:
        super().__init__(geometry, epoch, 0, from_layer)
        self._open = set(streams)
        self._board = board
        self._member = member
        self._untold = {unit for unit in range(len(geometry.units)) if not board.is_whole(unit)}

    def _mark(self, seen: bytearray, frame: Frame) -> None:
        super()._mark(seen, frame)
        self._board.begin(self._member, frame)

    def finish(self, stream: int, frame: Frame, verified_bytes: int) -> int | None:
        self._writing.discard(stream)
        if self.stopped or not verified_bytes:
            return None
        self.verified_bytes += verified_bytes
        unit = self._unit_of[frame.layer]
        self._board.verified(self._member, frame, unit)
        self._board.fence()
        return self._tell(unit)

    def missed(self) -> list[int]:
        """Units that are whole and were not told of here: for the end of a stream, so that none is left untold."""
        return [] if self.stopped else [unit for unit in sorted(self._untold) if self._tell(unit) is not None]

    def _tell(self, unit: int) -> int | None:
        if unit not in self._untold or not self._board.is_whole(unit):
            return None
        self._untold.discard(unit)
        return unit

    def _ended_early(self) -> None:
        """Not for this process to say."""

    @property
    def complete(self) -> bool:
        return self._board.whole

    @property
    def fenced(self) -> bool:
        return not self._writing and (self.stopped or not self._open or self.complete)


def _chunks(geometry: DeliveryGeometry) -> int:
    """Of all layers of all parts."""
    return sum(len(part.layers) * part.num_chunks for part in geometry.parts)
