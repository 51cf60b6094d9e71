"""What a core counts, since it was opened."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from objectcache.plan import Plan


@dataclass(slots=True)
class CoreCounters:
    """Segments, unless they say otherwise."""

    committed: int = 0
    evicted: int = 0
    dropped_full: int = 0
    forgotten: int = 0
    follow_failures: int = 0
    orphans: int = 0
    vanished: int = 0


@dataclass(slots=True)
class MergeCounters:
    """Merges, and why some were not made.

    `segments` became `merged` larger ones, for which `bytes_rewritten` were written. `duplicates` were dropped, since
    another segment holds all that they hold. Not made: `skipped_room` had no room,
    `outrun` lost segments meanwhile that were evicted or merged by somebody else, `failed` met damage or a store that
    fails.
    """

    merged: int = 0
    segments: int = 0
    bytes_rewritten: int = 0
    duplicates: int = 0
    skipped_room: int = 0
    outrun: int = 0
    failed: int = 0

    @property
    def unlucky(self) -> int:
        """Merges that failed, or had no room: reasons to leave it alone for a while."""
        return self.skipped_room + self.failed


class ReadCounters:
    """What deliveries took. Thread-safe.

    A range is one run of chunks of one segment at one layer of a part: what is read at once where the store is near.
    `layers` are those of all parts. `read_bytes` are the payload and its digest rows; where `measured`, what the store
    was asked for, which may be more.
    """

    def __init__(self) -> None:
        self.deliveries = self.layers = self.ranges = self.payload_bytes = self.read_bytes = 0
        self.measured = False
        """Whether those who read tell what they have read, instead of it being taken from plans."""
        self._lock = threading.Lock()

    def planned(self, plan: Plan) -> None:
        """A delivery begins."""
        read_bytes = 0 if self.measured else plan.read_bytes
        with self._lock:
            self.deliveries += 1
            self.layers += plan.num_layers
            self.ranges += plan.num_ranges
            self.payload_bytes += plan.payload_bytes
            self.read_bytes += read_bytes

    def read(self, read_bytes: int) -> None:
        """So much was read from the store for deliveries."""
        with self._lock:
            self.read_bytes += read_bytes

    @property
    def amplification(self) -> float:
        """Bytes read from the store for each byte to deliver; 0.0 before the first."""
        return self.read_bytes / self.payload_bytes if self.payload_bytes else 0.0

    @property
    def ranges_per_layer(self) -> float:
        return self.ranges / self.layers if self.layers else 0.0
