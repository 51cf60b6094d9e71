"""Chains that were found in many small segments: what is worth merging is what is read."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

from objectcache.catalog import Run, SegmentRecord

LEAST_SEGMENTS = 4
"""Fewer ranges a layer are not worth a merge."""
MOST_CHAINS = 256
_MOST_SEGMENTS = 4096


class Fragments:
    """The chains that were matched last, each as its segments. Thread-safe; `now_s` is any one clock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chains: OrderedDict[int, tuple[float, tuple[SegmentRecord, ...]]] = OrderedDict()

    def met(self, runs: Sequence[Run], now_s: float) -> None:
        """A part was matched in these runs."""
        if len(runs) < LEAST_SEGMENTS:
            return
        segments = tuple(run.segment for run in runs[-_MOST_SEGMENTS:])
        with self._lock:
            for segment in segments:  # what was matched some turns ago is a part of it
                self._chains.pop(segment.id, None)
            self._chains[segments[-1].id] = now_s, segments
            while len(self._chains) > MOST_CHAINS:
                self._chains.popitem(last=False)

    def take(self) -> dict[SegmentRecord, float]:
        """All segments of the chains, each with when it was met last. They are forgotten here."""
        with self._lock:
            chains, self._chains = self._chains, OrderedDict()
        met: dict[int, tuple[SegmentRecord, float]] = {}
        for now_s, segments in chains.values():  # later chains were met later
            met |= {segment.id: (segment, now_s) for segment in segments}
        return dict(met.values())

    def __len__(self) -> int:
        with self._lock:
            return len(self._chains)
