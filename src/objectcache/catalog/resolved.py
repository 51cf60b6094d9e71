"""Answers of `CatalogView.resolve` that are still right: a prefix that is hot is asked for again and again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import NamedTuple

from objectcache.catalog.records import Run

LIMIT_RUNS = 8192
"""Over all answers: a run is about 150 bytes, and keeps its segment's record, of 1 KB."""


class Asked(NamedTuple):
    namespace: bytes
    group: int
    shard: int
    leaf: bytes
    first: int
    stop: int


class ResolvedRuns:
    """The latest answers. Each is of one state of the catalog, and no use in any other. Thread-safe."""

    def __init__(self, limit_runs: int = LIMIT_RUNS) -> None:
        self._limit_runs = limit_runs
        self._lock = threading.Lock()
        self._answers: OrderedDict[Asked, tuple[int, tuple[Run, ...]]] = OrderedDict()
        self._held_runs = 0

    def get(self, asked: Asked, state: int) -> tuple[Run, ...] | None:
        """The answer in that `state`, if it is known."""
        with self._lock:
            found = self._answers.get(asked)
            if found is None or found[0] != state:
                return None
            self._answers.move_to_end(asked)
            return found[1]

    def add(self, asked: Asked, state: int, runs: tuple[Run, ...]) -> None:
        with self._lock:
            self._drop(asked)
            self._answers[asked] = (state, runs)
            self._held_runs += len(runs)
            while self._held_runs > self._limit_runs:
                self._drop(next(iter(self._answers)))

    def _drop(self, asked: Asked) -> None:
        _, runs = self._answers.pop(asked, (0, ()))
        self._held_runs -= len(runs)

    def clear(self) -> None:
        with self._lock:
            self._answers.clear()
            self._held_runs = 0
