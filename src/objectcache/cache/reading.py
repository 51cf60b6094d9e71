"""Reading a plan's ranges straight from the store into a destination, in delivery order, by a few threads."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from objectcache.cache.destination import Destination
from objectcache.cache.retrieval import Retrieval
from objectcache.errors import DeliveryError, IntegrityError, ObjectCacheError, RangeError
from objectcache.integrity import LayerBinding
from objectcache.keys import KeyChain
from objectcache.plan import LayerRun, Plan
from objectcache.segment import CommittedLayer
from objectcache.stores import ObjectReader

READ_BYTES = 2 << 20
"""About how much one task reads: small enough that all threads work on the layer that is needed next."""


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


class Reading:
    """One retrieval. Each task that ends submits the next one, so that concurrent retrievals take turns."""

    def __init__(
        self,
        plan: Plan,
        keys: Sequence[KeyChain],
        readers: Mapping[str, ObjectReader],
        retrieval: Retrieval,
        destination: Destination,
        on_damage: Callable[[str], None],
    ) -> None:
        """`keys` are each part's; `readers` are closed when the reading is over; `on_damage(segment)` is told."""
        self._plan = plan
        self._keys = keys
        self._readers = readers
        self._retrieval = retrieval
        self._destination = destination
        self._on_damage = on_damage
        self._missing_bytes = [plan.geometry.unit_bytes(unit) for unit in range(len(plan.geometry.units))]
        self._tasks = self._make_tasks()
        self._running = 0
        self._lock = threading.Lock()
        self._cancelled = False
        self._executor: ThreadPoolExecutor | None = None

    def start(self, executor: ThreadPoolExecutor, width: int) -> None:
        """Read with at most `width` tasks at a time."""
        self._executor = executor
        first = list(itertools.islice(self._tasks, width))
        self._running = len(first)
        for task in first:
            self._submit(task)

    def cancel(self) -> None:
        """Begin nothing more; the destination is fenced when the tasks under way have ended."""
        with self._lock:
            self._cancelled = True

    def _make_tasks(self) -> Iterator[_Task]:
        for layer_run in self._plan.layer_runs():
            run, position = layer_run.run, layer_run.position
            part = self._plan.parts[layer_run.part]
            binding = LayerBinding(part.group, part.shard, layer_run.layer)
            read = _LayerRead(
                layer_run, CommittedLayer(run.geometry, position, binding, run.leaf, run.row_digest(position))
            )
            first = run.first
            for span in layer_run.spans():
                if (span.stop - first) * layer_run.row.slice_bytes >= READ_BYTES or span.stop == run.stop:
                    yield _Task(read, first, span.stop)
                    first = span.stop

    def _submit(self, task: _Task) -> None:
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
        self._retrieval.fail(DeliveryError("the cache was closed"))
        self.cancel()
        self._end(None)

    def _run(self, task: _Task) -> None:
        done: _Task | None = None
        try:
            self._read(task)
            done = task
        except ObjectCacheError as error:
            self.cancel()
            self._retrieval.fail(error)
            if isinstance(error, IntegrityError) and error.segment:
                self._on_damage(error.segment)
        finally:
            self._end(done)

    def _end(self, done: _Task | None) -> None:
        """A task is over; `done` when its bytes are there and verified."""
        landed: int | None = None
        with self._lock:
            if done is not None and not self._cancelled:
                unit = done.read.layer_run.unit
                self._missing_bytes[unit] -= (done.stop - done.first) * done.read.layer_run.row.slice_bytes
                landed = None if self._missing_bytes[unit] else unit
            following = None if self._cancelled else next(self._tasks, None)
            if following is None:
                self._running -= 1
            over = not self._running
        if landed is not None:
            self._retrieval.land(landed)
        if following is not None:
            self._submit(following)
        if over:
            close_all(self._readers)
            self._destination.fence()

    def _read(self, task: _Task) -> None:
        read = task.read
        layer_run = read.layer_run
        run = layer_run.run
        size = layer_run.row.slice_bytes
        at = run.at + task.first - run.first
        count = task.stop - task.first
        start = self._plan.geometry.offset(layer_run.part, layer_run.layer) + at * size
        out = self._retrieval.memory[start : start + count * size]
        source = self._readers[run.segment]
        try:
            if read.row is None:
                read.row = read.layer.read_row(source)
            keys = self._keys[layer_run.part][at : at + count]
            read.layer.read_chunks(source, task.first, task.stop, keys, out, read.row)
        except (IntegrityError, RangeError) as error:
            message = f"segment {run.segment}, layer {layer_run.layer}: {error}"
            raise IntegrityError(message, segment=run.segment) from error


def close_all(readers: Mapping[str, ObjectReader]) -> None:
    for reader in readers.values():
        reader.close()
