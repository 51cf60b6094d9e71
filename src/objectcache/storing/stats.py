"""What became of what was offered."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from objectcache.storing.reasons import Reason

Sample = tuple[str, Mapping[str, str], float]


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Totals since the queue was made. Bytes are of slices. A store is one `begin`, of one part.

    `dropped` and `dropped_bytes` are stores that did not become visible, by reason; `staged_bytes` is the staging
    memory in use now, `staged_peak_bytes` the most it has been; `processes` how many storing processes were started.
    """

    offered: int
    offered_bytes: int
    stored: int
    stored_bytes: int
    stored_segments: int
    dropped: Mapping[Reason, int]
    dropped_bytes: Mapping[Reason, int]
    staging_bytes: int
    staged_bytes: int
    staged_peak_bytes: int
    processes: int

    @property
    def lost(self) -> int:
        """Stores that were wanted and did not become visible."""
        return sum(count for reason, count in self.dropped.items() if reason.lost)

    @property
    def lost_bytes(self) -> int:
        return sum(count for reason, count in self.dropped_bytes.items() if reason.lost)

    def samples(self) -> Iterator[Sample]:
        """(name, labels, value) as Prometheus wants them: names that end in `_total` are counters, others gauges."""
        yield "objectcache_store_offered_total", {}, self.offered
        yield "objectcache_store_offered_bytes_total", {}, self.offered_bytes
        yield "objectcache_store_stored_total", {}, self.stored
        yield "objectcache_store_stored_bytes_total", {}, self.stored_bytes
        yield "objectcache_store_stored_segments_total", {}, self.stored_segments
        for reason in Reason:
            yield "objectcache_store_dropped_total", {"reason": reason.value}, self.dropped.get(reason, 0)
            yield "objectcache_store_dropped_bytes_total", {"reason": reason.value}, self.dropped_bytes.get(reason, 0)
        yield "objectcache_store_staging_limit_bytes", {}, self.staging_bytes
        yield "objectcache_store_staging_used_bytes", {}, self.staged_bytes
        yield "objectcache_store_staging_peak_bytes", {}, self.staged_peak_bytes
        yield "objectcache_store_processes_total", {}, self.processes


class StoreCounter:
    """What `StoreStats` is made from. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._offered = self._offered_bytes = 0
        self._stored = self._stored_bytes = self._stored_segments = 0
        self._dropped: Counter[Reason] = Counter()
        self._dropped_bytes: Counter[Reason] = Counter()

    def offered(self, size_bytes: int) -> None:
        with self._lock:
            self._offered += 1
            self._offered_bytes += size_bytes

    def stored(self, size_bytes: int, segments: int) -> None:
        with self._lock:
            self._stored += 1
            self._stored_bytes += size_bytes
            self._stored_segments += segments

    def dropped(self, reason: Reason, size_bytes: int) -> None:
        with self._lock:
            self._dropped[reason] += 1
            self._dropped_bytes[reason] += size_bytes

    def part_dropped(self, reason: Reason, size_bytes: int) -> None:
        """Some chunks of a store that goes on without them."""
        with self._lock:
            self._dropped_bytes[reason] += size_bytes

    def snapshot(self, *, staging_bytes: int, staged_bytes: int, staged_peak_bytes: int, processes: int) -> StoreStats:
        with self._lock:
            return StoreStats(
                self._offered,
                self._offered_bytes,
                self._stored,
                self._stored_bytes,
                self._stored_segments,
                dict(self._dropped),
                dict(self._dropped_bytes),
                staging_bytes,
                staged_bytes,
                staged_peak_bytes,
                processes,
            )
