"""Chains that were found in many small segments: what is worth merging is what is read."""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from collections.abc import Sequence

from objectcache.catalog import Run

LEAST_SEGMENTS = 4
"""Fewer ranges a layer are not worth a merge."""
MOST_CHAINS = 256
MOST_SEGMENTS = 1 << 16
"""Of all chains together; 8 bytes each."""


class Fragments:
    """The chains that were matched last, each as its segments' ids. Thread-safe; `now_s` is any one clock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chains: OrderedDict[int, tuple[float, array[int]]] = OrderedDict()
        self._segments = 0

    def met(self, runs: Sequence[Run], now_s: float) -> None:
        """A part was matched in these runs."""
        if len(runs) < LEAST_SEGMENTS:
            return
        ids = array("Q", [run.segment.id for run in runs[-MOST_SEGMENTS:]])
        with self._lock:
            for id in ids:  # what was matched some turns ago is a part of it
                self._drop(id)
            self._chains[ids[-1]] = now_s, ids
            self._segments += len(ids)
            while len(self._chains) > MOST_CHAINS or self._segments > MOST_SEGMENTS:
                self._drop(next(iter(self._chains)))

    def _drop(self, last_id: int) -> None:
        dropped = self._chains.pop(last_id, None)
        if dropped is not None:
            self._segments -= len(dropped[1])

    def take(self) -> dict[int, float]:
        """Ids of all segments of the chains, each with when it was met last. They are forgotten here."""
        with self._lock:
            chains, self._chains, self._segments = self._chains, OrderedDict(), 0
        met: dict[int, float] = {}
        for now_s, ids in chains.values():  # later chains were met later
            met |= dict.fromkeys(ids, now_s)
        return met

    def __len__(self) -> int:
        with self._lock:
            return len(self._chains)
