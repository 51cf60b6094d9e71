"""What a core counts, since it was opened."""

from __future__ import annotations

from dataclasses import dataclass


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


@dataclass(slots=True)
class ReadCounters:
    """What deliveries took. A range is one run of chunks of one segment at one layer of a part: what is read at once.

    `layers` are those of all parts. `read_bytes` are the digest rows too, and what stores that are far away were asked
    for beyond what is wanted.
    """

    deliveries: int = 0
    layers: int = 0
    ranges: int = 0
    payload_bytes: int = 0
    read_bytes: int = 0

    @property
    def read_amplification(self) -> float:
        """Bytes read from the store for each byte delivered; 0.0 before the first."""
        return self.read_bytes / self.payload_bytes if self.payload_bytes else 0.0

    @property
    def ranges_per_layer(self) -> float:
        return self.ranges / self.layers if self.layers else 0.0
