"""Filling an empty catalog: segments as they come, then the index in its order. Not to be trusted before that."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol, TypeVar

import numpy as np

from objectcache.catalog.batch import Batch
from objectcache.catalog.environment import SEGMENTS, Environment
from objectcache.catalog.loading import IndexLoad
from objectcache.errors import ObjectCacheError

_log = logging.getLogger(__name__)

T = TypeVar("T")

_TOLD_EVERY_S = 10.0


class Write(Protocol):
    """`Catalog`'s: one transaction. With `load`, new segments are collected there instead of going into the index."""

    def __call__(self, work: Callable[[Batch], T], now_s: float, load: IndexLoad | None = None) -> T: ...


class Filling(AbstractContextManager["Filling"]):
    """`take` what there is, then `finish`. Nobody else may make segments visible meanwhile. Raises CatalogError.

    What is not `finished` is to be discarded.
    """

    def __init__(self, path: Path, environment: Environment, write: Write) -> None:
        self._path = path
        self._environment = environment
        self._write = write
        self._load = IndexLoad(path)
        self.finished = False
        self._began_s = self._told_s = time.monotonic()

    def take(self, work: Callable[[Batch], T], now_s: float) -> T:
        """`work` makes segments visible, which match once `finish` has returned."""
        result = self._write(work, now_s, self._load)
        self._tell("%s: %d chunks read after %.0f s", self._load.rows)
        return result

    def take_all(self, works: Iterable[Callable[[Batch], int]], now_s: float) -> int:
        """Take one after the other, and finish: also when the next one is not to be had, since what came before it
        counts. Returns the sum of what they return.
        """
        taken = 0
        try:
            for work in works:
                taken += self.take(work, now_s)
        except ObjectCacheError:
            self.finish({})
            raise
        self.finish({})
        return taken

    def finish(self, positions: Mapping[str, int]) -> None:
        """All is taken. `positions` are noted with it, beside those that `work` has noted."""
        with self._environment.read() as transaction:
            cursor = transaction.cursor(self._environment.db(SEGMENTS))
            alive = np.frombuffer(b"".join(cursor.iternext(keys=True, values=False)), ">u8").astype(np.uint64)
        indexed = 0
        for rows in self._load.in_order():
            self._write(partial(Batch.index, rows=rows, alive=alive), 0.0)
            indexed += len(rows)
            self._tell(f"%s: %d of {self._load.rows} chunks in the index after %.0f s", indexed)
        self._write(partial(Batch.end_load, positions=positions), 0.0)
        self.finished = True

    def _tell(self, message: str, chunks: int) -> None:
        now_s = time.monotonic()
        if now_s - self._told_s >= _TOLD_EVERY_S:
            self._told_s = now_s
            _log.info("building the catalog at " + message, self._path, chunks, now_s - self._began_s)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._load.__exit__(kind, error, trace)
