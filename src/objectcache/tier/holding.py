"""What the tier holds of one request, open, and its way into the request's destination."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

from objectcache.descriptor import Versions
from objectcache.errors import DeliveryError, IntegrityError, ObjectCacheError
from objectcache.keys import KeyChain
from objectcache.layout import DeliveryGeometry
from objectcache.tier.files import TierFile


@dataclass(frozen=True, slots=True)
class HeldExtent:
    """The first `count` chunks of `file`, from chunk `at` of the part on, at `layers`."""

    file: TierFile
    at: int
    count: int
    layers: tuple[int, ...]
    keys: KeyChain = field(repr=False)


@dataclass(frozen=True, slots=True)
class HeldPart:
    """`held` is as in `layout.PartShape`; `versions` are those of as many chunks as are held of the first layer."""

    group: int
    shard: int
    extents: tuple[HeldExtent, ...] = ()
    held: tuple[tuple[int, int], ...] = ()
    versions: Versions = ()


class _Task(NamedTuple):
    unit: int
    part: int
    layer: int
    extent: HeldExtent
    num_chunks: int


class Holding:
    """What is held of one request, by part. Closed when it has been read, or will not be."""

    def __init__(self, namespace: bytes, parts: tuple[HeldPart, ...], discard: Callable[[TierFile], None]) -> None:
        """`discard(file)` takes a damaged file out of the tier."""
        self.namespace = namespace
        self.parts = parts
        self._discard = discard
        self._lock = threading.Lock()
        self._cancelled = False
        self._running = 0

    def __bool__(self) -> bool:
        return any(part.held for part in self.parts)

    @property
    def files(self) -> list[TierFile]:
        return [extent.file for part in self.parts for extent in part.extents]

    def read(
        self,
        executor: ThreadPoolExecutor,
        width: int,
        geometry: DeliveryGeometry,
        memory: memoryview,
        *,
        on_unit: Callable[[int], None],
        on_failed: Callable[[ObjectCacheError], None],
        on_over: Callable[[], None],
    ) -> None:
        """All that is held into `memory`, in delivery order, by `width` threads.

        `on_unit(unit)` when the unit's share is there, verified; `on_failed(error)` at most once; `on_over()` once and
        last, when nothing writes any more.
        """
        tasks = list(self._tasks(geometry))
        missing: dict[int, int] = {}
        for task in tasks:
            missing[task.unit] = missing.get(task.unit, 0) + 1
        waiting = iter(tasks)
        self._running = width

        def run() -> None:
            try:
                while (task := self._next(waiting)) is not None:
                    self._read(task, geometry, memory)
                    with self._lock:
                        missing[task.unit] -= 1
                        landed = not missing[task.unit] and not self._cancelled
                    if landed:
                        on_unit(task.unit)
            except ObjectCacheError as error:
                if not self.cancel():
                    on_failed(error)
            except Exception as error:
                if not self.cancel():
                    on_failed(DeliveryError(f"reading the local tier failed: {error!r}"))
                raise
            finally:
                with self._lock:
                    self._running -= 1
                    over = not self._running
                if over:
                    self.close()
                    on_over()

        for index in range(width):
            try:
                executor.submit(run)
            except RuntimeError:  # the cache is being closed
                self.cancel()
                on_failed(DeliveryError("the cache was closed"))
                with self._lock:
                    self._running -= width - index
                    over = not self._running
                if over:
                    self.close()
                    on_over()
                return

    def cancel(self) -> bool:
        """Begin nothing more. Whether that was so already."""
        with self._lock:
            before, self._cancelled = self._cancelled, True
        return before

    def _next(self, waiting: Iterator[_Task]) -> _Task | None:
        with self._lock:
            return None if self._cancelled else next(waiting, None)

    def _tasks(self, geometry: DeliveryGeometry) -> Iterator[_Task]:
        for unit, layers in enumerate(geometry.units):
            for layer in layers:
                for part in geometry.parts_of(layer):
                    held = geometry.parts[part].held_chunks(layer)
                    for extent in self.parts[part].extents:
                        if layer in extent.layers and extent.at < held:
                            yield _Task(unit, part, layer, extent, min(extent.count, held - extent.at))

    def _read(self, task: _Task, geometry: DeliveryGeometry, memory: memoryview) -> None:
        extent, part = task.extent, self.parts[task.part]
        shape = geometry.parts[task.part]
        size = shape.slice_bytes[geometry.position(task.part, task.layer)]
        sizes = [shape.slice_bytes[geometry.position(task.part, layer)] for layer in extent.layers]
        start = geometry.offset(task.part, task.layer) + extent.at * size
        try:
            extent.file.check(self.namespace, (part.group, part.shard), extent.layers, sizes, extent.keys)
            position = extent.layers.index(task.layer)
            extent.file.read(position, task.num_chunks, memory[start : start + task.num_chunks * size])
        except IntegrityError:
            self._discard(extent.file)
            raise

    def discard(self) -> None:
        """All of it is of no use any more: the store has other versions."""
        for file in self.files:
            self._discard(file)

    def close(self) -> None:
        for file in self.files:
            file.close()
