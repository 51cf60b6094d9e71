"""What a worker counts: plain data that pickles and adds up, and the counter that its threads add to."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Outcome(StrEnum):
    """Why nothing is loaded. Those from UNAVAILABLE on are failures."""

    NOT_STORED = "not_stored"  # nothing of it
    HELD = "held"  # nothing beyond what the engine has already
    TOO_SHORT = "too_short"  # what is stored is less than `min_tokens`
    RECOMPUTE = "recompute"  # computing it is faster
    NO_ROOM = "no_room"  # staging memory was full for too long, or is too small
    LEFT_ALONE = "left_alone"  # the storage side failed lately: nothing is asked of it for a while
    UNNAMED = "unnamed"  # its namespace cannot be told
    UNAVAILABLE = "unavailable"  # nobody answers
    LATE = "late"  # nothing came for too long, or too little
    DAMAGED = "damaged"  # what came is not what was stored
    FAILED = "failed"  # anything else

    @property
    def failure(self) -> bool:
        return self in (Outcome.UNAVAILABLE, Outcome.LATE, Outcome.DAMAGED, Outcome.FAILED)


@dataclass(slots=True)
class LayerWaits:
    """How long the engine stood for one layer, over `count` loads; seconds."""

    count: int = 0
    total_s: float = 0.0
    longest_s: float = 0.0

    def add(self, other: LayerWaits) -> None:
        self.count += other.count
        self.total_s += other.total_s
        self.longest_s = max(self.longest_s, other.longest_s)


@dataclass(slots=True)
class WorkerStats:
    """Of one rank or several. `outcomes` and `dropped` are look-ups without a load and saves that were not stored, by
    reason; `hits`, `tokens` and `bytes` are of loads that are in their blocks."""

    hits: int = 0
    tokens: int = 0
    bytes: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    waits: dict[int, LayerWaits] = field(default_factory=dict)
    """By layer number."""
    failed_loads: int = 0
    stored_bytes: int = 0
    saves: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether anything was counted. Asked every step, hence not by comparing all of it."""
        counted = self.hits or self.tokens or self.bytes or self.failed_loads or self.stored_bytes or self.saves
        return bool(counted or self.outcomes or self.waits or self.dropped)

    def add(self, other: WorkerStats) -> None:
        """`other` on top."""
        for name in ("hits", "tokens", "bytes", "failed_loads", "stored_bytes", "saves"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.outcomes = _sum(self.outcomes, other.outcomes)
        self.dropped = _sum(self.dropped, other.dropped)
        for layer, waits in other.waits.items():
            self.waits.setdefault(layer, LayerWaits()).add(waits)


def _sum(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return dict(Counter(one) + Counter(other))


class WorkerCounter:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._new = WorkerStats()

    def add(self, stats: WorkerStats) -> None:
        with self._lock:
            self._new.add(stats)

    def waited(self, layer: int, seconds: float) -> None:
        with self._lock:
            self._new.waits.setdefault(layer, LayerWaits()).add(LayerWaits(1, seconds, seconds))

    def take(self) -> WorkerStats:
        """What is new since the last call."""
        with self._lock:
            new, self._new = self._new, WorkerStats()
        return new
