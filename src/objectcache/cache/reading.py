"""Reading a plan's ranges straight from the store into a destination, in delivery order, by several threads."""

from __future__ import annotations

import itertools
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from objectcache.cache.landing import Landing
from objectcache.errors import (
    DeliveryError,
    IntegrityError,
    ObjectCacheError,
    ObjectChangedError,
    ObjectNotFoundError,
    RangeError,
    SegmentGoneError,
)
from objectcache.integrity import LayerBinding
from objectcache.keys import KeyChain
from objectcache.plan import LayerRun, Plan
from objectcache.segment import CommittedLayer
from objectcache.stores import ObjectReader

READ_BYTES = 2 << 20
"""About how much one task reads: small enough that all threads work on the layer that is needed next."""

T = TypeVar("T")


class Reading(ABC, Generic[T]):
    """One retrieval, as tasks. Each that ends submits the next one, so that concurrent retrievals take turns."""

    def __init__(
        self,
        plan: Plan,
        keys: Sequence[KeyChain],
        readers: Mapping[str, ObjectReader],
        landing: Landing,
        *,
        on_gone: Callable[[str], None],
        on_damage: Callable[[str], None],
    ) -> None:
        """`keys` are each part's; `readers` are closed when the reading is over. `on_gone(segment)` and
        `on_damage(segment)` are told what turned out."""
        self._plan = plan
        self._keys = keys
        self._readers = readers
        self._landing = landing
        self._on_gone, self._on_damage = on_gone, on_damage
        self._missing_bytes = list(plan.geometry.unit_wanted_bytes)
        self._tasks = self._make_tasks()
        self._running = self._width = 0
        self._lock = threading.Lock()
        self._cancelled = False
        self._executor: ThreadPoolExecutor | None = None

    @abstractmethod
    def _make_tasks(self) -> Iterator[T]:
        """All tasks, in the order in which they are begun."""

    @abstractmethod
    def _read(self, task: T) -> Iterator[tuple[int, int]]:
        """Do a task; of which unit how many bytes are in the destination, and verified, each time there are some."""

    def start(self, executor: ThreadPoolExecutor, width: int, at_first: int) -> None:
        """Read with at most `width` tasks at a time, `at_first` to begin with: then two for each that ends."""
        self._executor = executor
        self._width = width
        first = list(itertools.islice(self._tasks, min(width, at_first)))
        self._running = len(first)
        for task in first:
            self._submit(task)

    def cancel(self) -> None:
        """Begin nothing more; the destination is fenced when the tasks under way have ended."""
        with self._lock:
            self._cancelled = True

    def _submit(self, task: T) -> None:
        assert self._executor is not None
        try:
            self._executor.submit(self._run, task).add_done_callback(self._ended)
        except RuntimeError:
            self._abandon()

    def _ended(self, submitted: Future[None]) -> None:
        if submitted.cancelled():
            self._abandon()

    def _abandon(self) -> None:
        """A task will not run, since the cache is being closed: nothing of this retrieval is read any more."""
        self._landing.fail(DeliveryError("the cache was closed"))
        self.cancel()
        self._end()

    def _run(self, task: T) -> None:
        self._do(lambda: self._read(task))

    def _do(self, read: Callable[[], Iterator[tuple[int, int]]]) -> None:
        """A task, in whichever way it is read, to its end."""
        try:
            for unit, verified_bytes in read():
                self._count(unit, verified_bytes)
        except ObjectCacheError as error:
            self.cancel()
            self._landing.fail(error)
            if isinstance(error, SegmentGoneError):
                self._on_gone(error.segment)
            elif isinstance(error, IntegrityError) and error.segment:
                self._on_damage(error.segment)
        finally:
            self._end()

    def _count(self, unit: int, verified_bytes: int) -> None:
        with self._lock:
            if self._cancelled:
                return
            self._missing_bytes[unit] -= verified_bytes
            if self._missing_bytes[unit]:
                return
        self._landing.land_sent(unit)

    def _end(self) -> None:
        """A task is over."""
        with self._lock:
            self._running -= 1
            wanted = 0 if self._cancelled else min(2, self._width - self._running)
            following = list(itertools.islice(self._tasks, wanted))
            self._running += len(following)
            over = not self._running
        for task in following:
            self._submit(task)
        if over:
            close_all(self._readers)
            self._landing.fence()

    # -- for tasks --------------------------------------------------------------------------------

    def _committed(self, layer_run: LayerRun) -> CommittedLayer:
        run, position = layer_run.run, layer_run.position
        part = self._plan.parts[layer_run.part]
        binding = LayerBinding(part.group, part.shard, layer_run.layer)
        return CommittedLayer(run.geometry, position, binding, run.leaf, run.row_digest(position))

    def _place(self, layer_run: LayerRun, first: int, stop: int) -> tuple[memoryview, KeyChain]:
        """Where chunks [first, stop) of the segment belong in the destination, and their keys."""
        size = layer_run.row.slice_bytes
        at = layer_run.run.at + first - layer_run.run.first
        count = stop - first
        start = self._plan.geometry.offset(layer_run.part, layer_run.layer) + at * size
        return self._landing.memory[start : start + count * size], self._keys[layer_run.part][at : at + count]

    @contextmanager
    def _using(self, segment: str, layer: int) -> Iterator[ObjectReader]:
        """The open segment. What goes wrong with it inside names it, and is a miss from then on."""
        try:
            yield self._readers[segment]
        except (IntegrityError, RangeError, ObjectChangedError) as error:
            raise IntegrityError(f"segment {segment}, layer {layer}: {error}", segment=segment) from error
        except ObjectNotFoundError as error:
            raise SegmentGoneError(f"segment {segment} is gone from the store", segment=segment) from error


@dataclass(eq=False, slots=True)
class _LayerRead:
    """One run at one layer. Its digest row is read by the first task that needs it."""

    layer_run: LayerRun
    layer: CommittedLayer
    row: bytes | None = None


@dataclass(frozen=True, slots=True)
class _Task:
    """Chunks [first, stop) of the segment, whole pieces where possible."""

    read: _LayerRead
    first: int
    stop: int


class NearReading(Reading[_Task]):
    """From a store that answers at once: what the threads have not asked for yet costs nothing."""

    def _make_tasks(self) -> Iterator[_Task]:
        for layer_run in self._plan.layer_runs():
            run = layer_run.run
            read = _LayerRead(layer_run, self._committed(layer_run))
            first = run.first
            for span in layer_run.spans():
                if (span.stop - first) * layer_run.row.slice_bytes >= READ_BYTES or span.stop == run.stop:
                    yield _Task(read, first, span.stop)
                    first = span.stop

    def _read(self, task: _Task) -> Iterator[tuple[int, int]]:
        read = task.read
        out, keys = self._place(read.layer_run, task.first, task.stop)
        with self._using(read.layer_run.run.segment, read.layer_run.layer) as source:
            if read.row is None:
                read.row = read.layer.read_row(source)
            read.layer.read_chunks(source, task.first, task.stop, keys, out, read.row)
        yield read.layer_run.unit, len(out)


def close_all(readers: Mapping[str, ObjectReader]) -> None:
    for reader in readers.values():
        reader.close()
