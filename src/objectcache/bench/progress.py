"""Progress that does not disturb what is measured: it is drawn between measurements, never from a thread."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class BenchmarkProgress(AbstractContextManager["BenchmarkProgress"]):
    """A bar over `steps` measurements and preparations."""

    def __init__(self, console: Console, steps: int) -> None:
        columns = (
            TextColumn("{task.description:<36}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=console, auto_refresh=False)
        self._task = self._progress.add_task("", total=steps)

    def begin(self, stage: str) -> None:
        self._progress.update(self._task, description=stage, refresh=True)

    def step(self, count: int = 1) -> None:
        self._progress.update(self._task, advance=count, refresh=True)

    def __enter__(self) -> BenchmarkProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
