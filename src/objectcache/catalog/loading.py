"""The index of a catalog that is filled from nothing: collected, sorted, written from its first page to its last.

Keys are random. Written as they come, nearly every one costs a page of the database; sorted, a page holds a hundred and
is written once. Memory holds one run; what is more waits in temporary files, which vanish with the process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from objectcache.catalog.records import ROW_BYTES, entry_rows
from objectcache.errors import CatalogError
from objectcache.segment import SegmentHeader

RUN_ROWS = 1 << 19
"""Sorted in memory: 22 MB, and as much again while it is sorted."""
_SAMPLE_ROWS = 1 << 12
_SAMPLES_PER_PART = 16

_SORTABLE = np.dtype(f"S{ROW_BYTES}")
Rows = npt.NDArray[np.uint8]


class IndexLoad(AbstractContextManager["IndexLoad"]):
    """Takes segments in any order, gives their index rows back in the index's. `rows` counts them."""

    def __init__(self, directory: Path, run_rows: int = 0) -> None:
        """Temporary files are made in `directory`. `run_rows` 0 are RUN_ROWS."""
        self._directory = directory
        self._run_rows = run_rows or RUN_ROWS
        self._pending: list[Rows] = []
        self._pending_rows = 0
        self._runs: list[npt.NDArray[np.bytes_]] = []
        self._files = ExitStack()
        self._broken = False
        self.rows = 0

    def add(self, id: int, header: SegmentHeader) -> None:
        """Raises CatalogError where there is no room for a temporary file."""
        self._pending.append(entry_rows(id, header))
        self._pending_rows += header.num_chunks
        self.rows += header.num_chunks
        if self._pending_rows >= self._run_rows:
            self._write_run()

    def _sorted_run(self) -> npt.NDArray[np.bytes_]:
        run = np.concatenate(self._pending or [np.empty((0, ROW_BYTES), np.uint8)]).view(_SORTABLE).reshape(-1)
        run.sort()
        self._pending, self._pending_rows = [], 0
        return run

    def _write_run(self) -> None:
        run = self._sorted_run()
        try:
            file = self._files.enter_context(tempfile.TemporaryFile(dir=self._directory))  # noqa: SIM115
            run.tofile(file)
            file.flush()
            self._runs.append(np.memmap(file, _SORTABLE, "r", shape=run.shape))
        except OSError as error:
            self._broken = True
            raise CatalogError(f"what a catalog is built from cannot be kept in {self._directory}: {error}") from error

    def in_order(self) -> Iterator[Rows]:
        """All rows, ascending, in pieces of bounded size: (rows, ROW_BYTES). Raises CatalogError when `add` has: there
        may be segments then that it was never given.
        """
        if self._broken:
            raise CatalogError(f"the index of the catalog at {self._directory} cannot be completed")
        runs = [*self._runs, self._sorted_run()]
        # Between two bounds each run has at most a sample's distance more than what lies between its samples.
        samples = np.sort(np.concatenate([run[::_SAMPLE_ROWS] for run in runs]))
        bounds = samples[_SAMPLES_PER_PART::_SAMPLES_PER_PART]
        cuts = [[0, *np.searchsorted(run, bounds).tolist(), len(run)] for run in runs]
        for at in range(len(bounds) + 1):
            part = np.concatenate([run[cut[at] : cut[at + 1]] for run, cut in zip(runs, cuts, strict=True)])
            part.sort()
            yield part.view(np.uint8).reshape(-1, ROW_BYTES)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runs.clear()
        self._files.close()
