"""What the tier holds of one request, open, and its way into the request's destination."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from objectcache.descriptor import HeldChunks, Versions
from objectcache.errors import DeliveryError, IntegrityError, ObjectCacheError
from objectcache.keys import KeyChain
from objectcache.layout import DeliveryGeometry, PartShape, piece_chunks
from objectcache.tier.files import TierFile

Slices = npt.NDArray[np.uint8]
"""uint8 [chunks, slice_bytes]."""


@dataclass(frozen=True, slots=True)
class HeldExtent:
    """The first `count` chunks of `file`, from chunk `at` of the part on, at `layers`; `keys` are theirs."""

    file: TierFile
    at: int
    count: int
    layers: tuple[int, ...]
    keys: KeyChain = field(repr=False)


@dataclass(frozen=True, slots=True)
class HeldPart:
    """What is held `of` a part, and where: `extents`. What they hold beyond that is not used."""

    of: HeldChunks
    extents: tuple[HeldExtent, ...] = ()

    @property
    def held(self) -> tuple[tuple[int, int], ...]:
        return self.of.held

    @property
    def versions(self) -> Versions:
        return self.of.versions

    @property
    def chunks(self) -> int:
        """Of which anything is held."""
        return self.of.held[-1][1] if self.of.held else 0

    def covers(self, layers: tuple[int, ...], at: int, stop: int) -> bool:
        """Whether one file with these layers has all of chunks [at, stop)."""
        return any(e.layers == layers and e.at <= at and stop <= e.at + e.count for e in self.extents)

    def within(self, layers: tuple[int, ...], at: int, stop: int) -> list[TierFile]:
        """Files with these layers that have some of chunks [at, stop), and nothing else."""
        return [
            e.file
            for e in self.extents
            if e.layers == layers and at <= e.at and e.at + e.count <= stop and e.count == e.file.name.num_chunks
        ]

    def narrowed(self, first: int, chunks: int) -> HeldPart:
        """To chunks [first, first + chunks). Nothing where it begins elsewhere."""
        if first != self.of.first:
            return nothing_held(self.of.group, self.of.shard, first)
        extents = (
            extent if count == extent.count else replace(extent, count=count, keys=extent.keys[:count])
            for extent in self.extents
            if (count := min(extent.count, chunks - extent.at)) > 0
        )
        return HeldPart(self.of.shortened(chunks), tuple(extents))


def nothing_held(group: int, shard: int, first: int) -> HeldPart:
    return HeldPart(HeldChunks(group, shard, first, (), ()))


_READ_PIECES = 8
"""Of a layer of a file, that a thread reads at once: others have a share of a long one."""


class _Task(NamedTuple):
    """Chunks [first, stop) of `extent`, counted in its file, at `layer`."""

    unit: int
    part: int
    layer: int
    extent: HeldExtent
    first: int
    stop: int


class Holding:
    """What is held of one request, by part. To be closed once it has been read and what is mapped of it was used, or
    when neither will be."""

    def __init__(self, namespace: bytes, parts: tuple[HeldPart, ...], discard: Callable[[TierFile], None]) -> None:
        """`discard(file)` takes a damaged file out of the tier."""
        self.namespace = namespace
        self.parts = parts
        self._files = [extent.file for part in parts for extent in part.extents]
        self._discard = discard
        self._lock = threading.Lock()
        self._cancelled = False
        self._running = 0
        self._users = 1  # whoever has looked it up, and who reads it
        self._closed = False
        self._checked: set[int] = set()  # extents, by identity
        self.all_mapped = False
        """Whether nothing of it had to be read, as `read` found."""

    def __bool__(self) -> bool:
        return any(part.held for part in self.parts)

    def narrow(self, wanted: Sequence[tuple[int, int, int, int]]) -> None:
        """Only these (group, shard, first, chunks) are wanted in the end, in their order. Before it is read."""
        found = {(part.of.group, part.of.shard): part for part in self.parts}
        self.parts = tuple(
            found.get((group, shard), nothing_held(group, shard, first)).narrowed(first, chunks)
            for group, shard, first, chunks in wanted
        )

    def read(
        self,
        executor: ThreadPoolExecutor,
        width: int,
        geometry: DeliveryGeometry,
        memory: memoryview,
        *,
        put_mapped: Callable[[int, int, int, Slices], None],
        on_unit: Callable[[int], None],
        on_failed: Callable[[ObjectCacheError], None],
        on_over: Callable[[], None],
    ) -> None:
        """All that is held, in delivery order: what is mapped is put (`put_mapped(part, layer, first chunk, slices)`,
        now; valid until `close`), the rest is read into `memory` by `width` threads.

        `on_unit(unit)` when the unit's share is there, verified; `on_failed(error)` at most once; `on_over()` once and
        last, when nothing writes any more.
        """
        try:
            tasks, units = self._put(geometry, put_mapped)
        except ObjectCacheError as error:
            self.cancel()
            on_failed(error)
            on_over()
            return
        missing: dict[int, int] = {}
        for task in tasks:
            missing[task.unit] = missing.get(task.unit, 0) + 1
        for unit in units:
            if unit not in missing:
                on_unit(unit)
        self.all_mapped = not tasks
        if not tasks:
            on_over()
            return
        waiting = iter(tasks)
        self._running = width
        with self._lock:
            self._users += 1

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
                end(1)

        def end(threads: int) -> None:
            with self._lock:
                self._running -= threads
                over = not self._running
            if over:
                self._release()
                on_over()

        for index in range(width):
            try:
                executor.submit(run)
            except RuntimeError:  # the cache is being closed
                self.cancel()
                on_failed(DeliveryError("the cache was closed"))
                end(width - index)
                return

    def _put(
        self, geometry: DeliveryGeometry, put_mapped: Callable[[int, int, int, Slices], None]
    ) -> tuple[list[_Task], set[int]]:
        """What is to be read, and the units of which anything is held. Raises IntegrityError."""
        tasks: list[_Task] = []
        units = set()
        for task in self._tasks(geometry):
            units.add(task.unit)
            slices = task.extent.file.mapped(task.extent.layers.index(task.layer), task.stop)
            if slices is None:
                tasks += _cut(task, geometry)
                continue
            self._check(task, geometry)
            put_mapped(task.part, task.layer, task.extent.at, slices)
        return tasks, units

    def mapped_ahead(self, geometry: DeliveryGeometry, most_bytes: int) -> Iterator[tuple[int, int, list[Slices]]]:
        """Of what `read` would put, what is asked for first: (part, layer, its chunks from the first on). The first
        unit, and those behind it that fit in `most_bytes` with it. What is wrong with a file `read` will find again."""
        left = most_bytes
        for (unit, part, layer), tasks in groupby(self._tasks(geometry), _where):
            blocks: list[Slices] = []
            for task in tasks:
                if task.extent.at != sum(map(len, blocks)):
                    return  # no gap may be
                slices = task.extent.file.mapped(task.extent.layers.index(layer), task.stop)
                if slices is None:
                    return
                with suppress(ObjectCacheError):
                    self._check(task, geometry)
                if id(task.extent) not in self._checked:
                    return
                blocks.append(slices)
            left -= sum(slices.nbytes for slices in blocks)
            if unit and left < 0:
                return
            yield part, layer, blocks

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
                            yield _Task(unit, part, layer, extent, 0, min(extent.count, held - extent.at))

    def _read(self, task: _Task, geometry: DeliveryGeometry, memory: memoryview) -> None:
        extent = task.extent
        self._check(task, geometry)
        size = geometry.parts[task.part].slice_bytes[geometry.position(task.part, task.layer)]
        start = geometry.offset(task.part, task.layer) + (extent.at + task.first) * size
        position = extent.layers.index(task.layer)
        out = memory[start : start + (task.stop - task.first) * size]
        try:
            extent.file.read(position, task.first, task.stop, out)
        except IntegrityError:
            self._discard(extent.file)
            raise

    def check_mapped(self, shapes: Sequence[PartShape]) -> None:
        """What `read` checks of what is mapped, ahead of it. `shapes` are those of `parts`; what is wrong `read` will
        find again."""
        for part, shape in zip(self.parts, shapes, strict=True):
            sizes = dict(zip(shape.layers, shape.slice_bytes, strict=True))
            for extent in part.extents:
                if extent.file.mapped_layers:
                    with suppress(ObjectCacheError):
                        self._check_file(extent, part, [sizes[layer] for layer in extent.layers])

    def _check(self, task: _Task, geometry: DeliveryGeometry) -> None:
        """Raises IntegrityError for a file that is not what it was taken for."""
        shape = geometry.parts[task.part]
        sizes = [shape.slice_bytes[geometry.position(task.part, layer)] for layer in task.extent.layers]
        self._check_file(task.extent, self.parts[task.part], sizes)

    def _check_file(self, extent: HeldExtent, part: HeldPart, sizes: Sequence[int]) -> None:
        """`sizes` are the slice_bytes of its layers. Raises IntegrityError."""
        if id(extent) in self._checked:
            return
        try:
            extent.file.check(self.namespace, (part.of.group, part.of.shard), extent.layers, sizes, extent.keys)
        except IntegrityError:
            self._discard(extent.file)
            raise
        self._checked.add(id(extent))

    def discard(self) -> None:
        """All of it is of no use any more: the store has other versions."""
        for file in self._files:
            self._discard(file)

    def close(self) -> None:
        """Neither read any more, once those who do have ended, nor used where it is mapped."""
        with self._lock:
            first, self._closed = not self._closed, True
        if first:
            self._release()

    def _release(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users:
                return
        for file in self._files:
            file.close()


def _where(task: _Task) -> tuple[int, int, int]:
    return task.unit, task.part, task.layer


def _cut(task: _Task, geometry: DeliveryGeometry) -> Iterator[_Task]:
    """Into what one thread reads at once."""
    size = geometry.parts[task.part].slice_bytes[geometry.position(task.part, task.layer)]
    most = _READ_PIECES * piece_chunks(size)
    for first in range(task.first, task.stop, most):
        yield task._replace(first=first, stop=min(task.stop, first + most))
