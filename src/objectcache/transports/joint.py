"""One delivery received by several processes: each has some of its streams, and says on a shared board what it got.

A process knows by the board when a section is whole, whoever received the rest of it. Pure, as `delivery` is.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from functools import cached_property
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from objectcache.delivery import Reception
from objectcache.errors import DeliveryError
from objectcache.frames import Frame
from objectcache.layout import MAX_SECTIONS, DeliveryGeometry, align_up

_COUNT_BYTES = 8


class ArrivalBoard:
    """For each member (a process): which chunks of which layer it has begun to receive, a byte each, and how many of
    each section's it has verified. Only that process writes them."""

    def __init__(self, geometry: DeliveryGeometry, memory: memoryview, members: int, from_layer: int = 0) -> None:
        """`memory`: `size_bytes` bytes, which the processes share; zeros at first."""
        self._geometry, self._members, self._from_layer = geometry, members, from_layer
        self._memory = memory
        chunks = _chunks(geometry)
        self._begun = np.frombuffer(memory[: members * chunks], dtype=np.uint8).reshape(members, chunks)
        self._first = [0, *accumulate(len(part.layers) * part.num_chunks for part in geometry.parts)]
        """By part."""
        self._fence = threading.Lock()

    # Sections take time to be worked out, and are not asked for before a span has been received.

    @cached_property
    def _wanted(self) -> npt.NDArray[np.int64]:
        return np.array(self._geometry.sections.wanted_chunks(self._from_layer), dtype=np.int64)

    @cached_property
    def _counts(self) -> npt.NDArray[np.int64]:
        at, size = _begun_bytes(self._geometry, self._members), self._members * len(self._wanted) * _COUNT_BYTES
        return np.frombuffer(self._memory[at : at + size], dtype=np.int64).reshape(self._members, -1)

    @staticmethod
    def size_bytes(geometry: DeliveryGeometry, members: int) -> int:
        return align_up(_begun_bytes(geometry, members) + members * len(geometry.sections.all) * _COUNT_BYTES)

    @staticmethod
    def most_bytes(geometry: DeliveryGeometry, members: int) -> int:
        """`size_bytes` at most of what has the parts of `geometry` or prefixes of them, in whatever units."""
        sections = MAX_SECTIONS * sum(len(part.layers) for part in geometry.parts)
        return align_up(_begun_bytes(geometry, members) + members * sections * _COUNT_BYTES)

    def begin(self, member: int, frame: Frame) -> None:
        """Before the first byte of a span is written. Raises DeliveryError where another member has begun any of it."""
        geometry = self._geometry
        row = geometry.position(frame.part, frame.layer)
        first = self._first[frame.part] + row * geometry.parts[frame.part].num_chunks + frame.first_chunk
        span = self._begun[:, first : first + frame.num_chunks]
        span[member] = 1
        self.fence()
        if np.count_nonzero(span) > frame.num_chunks:
            raise DeliveryError(f"chunks from {frame.first_chunk} on of layer {frame.layer} were sent twice")

    def verified(self, member: int, section: int, chunks: int) -> None:
        self._counts[member, section] += chunks

    def fence(self) -> None:
        """What was written before is seen by the other processes before what follows is read: of two that mark the last
        chunks of a section at once, one sees both."""
        with self._fence:
            pass

    def is_whole(self, section: int) -> bool:
        return bool(self._counts[:, section].sum() >= self._wanted[section])

    def whole_sections(self) -> list[int]:
        """Those of which anything is wanted."""
        whole = (self._counts.sum(axis=0) >= self._wanted) & (self._wanted > 0)
        return [int(section) for section in np.flatnonzero(whole)]

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
        self._told: set[int] = set()

    def shape(self, geometry: DeliveryGeometry) -> None:
        """The board counts what is missing."""
        self._geometry = geometry

    def _mark(self, seen: bytearray, frame: Frame) -> None:
        super()._mark(seen, frame)
        self._board.begin(self._member, frame)

    def finish(self, stream: int, frame: Frame, verified_bytes: int) -> tuple[int, ...]:
        self._writing.discard(stream)
        if self.stopped or not verified_bytes:
            return ()
        self.verified_bytes += verified_bytes
        touched = list(self._touched(frame))
        for section, chunks in touched:
            self._board.verified(self._member, section, chunks)
        self._board.fence()
        return tuple(section for section, _ in touched if self._tell(section))

    def missed(self) -> list[int]:
        """Sections that are whole and were not told of here: for the end of a stream, so that none is left untold."""
        if self.stopped:
            return []
        missed = [section for section in self._board.whole_sections() if section not in self._told]
        self._told.update(missed)
        return missed

    def _tell(self, section: int) -> bool:
        if section in self._told or not self._board.is_whole(section):
            return False
        self._told.add(section)
        return True

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


def _begun_bytes(geometry: DeliveryGeometry, members: int) -> int:
    return align_up(members * _chunks(geometry), _COUNT_BYTES)
