"""Ranges that are being asked for, so that retrievals that run at once ask for each only once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Range = tuple[str, int, int]
"""Segment, first byte, last byte + 1."""
Bytes = npt.NDArray[np.uint8]
Landed = Callable[[Bytes | None], None]
"""Called with the range's bytes, to be read and let go of; None: they could not be had, ask yourself."""


@dataclass(eq=False, slots=True)
class Flight:
    """One range, from when somebody asks for it until it is there."""

    wanted: Range
    waiting: list[Landed] = field(default_factory=list)


class Flights:
    """Of one cache. Nobody waits here: who comes second is called. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flying: dict[Range, Flight] = {}
        self.closed = False

    def close(self) -> None:
        """Nobody is to ask again: the executor that asks is about to end, and takes nothing more."""
        self.closed = True

    def join(self, wanted: Range, landed: Landed) -> Flight | None:
        """None: somebody asks for it already, and `landed` will be called. Else the caller asks, and `finish`es."""
        with self._lock:
            flight = self._flying.get(wanted)
            if flight is not None:
                flight.waiting.append(landed)
                return None
            self._flying[wanted] = flight = Flight(wanted)
            return flight

    def finish(self, flight: Flight, data: memoryview | None) -> None:
        """It is here, or failed (None). Only the first time counts. `data` may change afterwards."""
        with self._lock:
            if self._flying.get(flight.wanted) is not flight:
                return
            del self._flying[flight.wanted]
        if flight.waiting:
            kept = None if data is None else np.frombuffer(data, np.uint8).copy()
            for landed in flight.waiting:
                landed(kept)
