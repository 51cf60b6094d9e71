"""Layers that land in host memory, on to the engine's cache: so that its stream waits for just the layer it needs.

loader = DeviceLoader(device)                                 # once: streams, staging memory
loading = loader.load(cache.retrieve(match), {(0, layer): caches[layer].at(table) for layer in layers})
for layer in layers:
    loading.wait(layer)                                       # the current stream waits, not the host
    compute(layer)
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import torch

from objectcache.cache.retrieval import Retrieval
from objectcache.cores import leave_bound_core
from objectcache.device.ahead import DeviceAhead
from objectcache.device.movers import Movers
from objectcache.device.places import Place
from objectcache.device.queueing import MoveQueue
from objectcache.device.streams import (
    Event,
    current_mark,
    current_wait,
    exact_device,
    host_wait,
    make_current,
    timed_event,
)
from objectcache.errors import (
    DeliveryCancelledError,
    DeliveryError,
    DeliveryTimeoutError,
    LayoutError,
    ObjectCacheError,
)
from objectcache.layout import Chunks, DeliveryGeometry

Places = Mapping[tuple[int, int], Place]
"""By (index of the part in the delivery, layer)."""

Spans = Mapping[int, tuple[int, int]]
"""By index of the part in the delivery: chunks [first, stop) of what is delivered of it."""


class DeviceLoader:
    """Moves layers to one device. Thread-safe.

    It takes `num_staging` times `staging_bytes` of the device's memory, whatever is loaded (more only where one slice
    is larger). On the CPU slices go straight to their places.
    """

    def __init__(
        self,
        device: torch.device | str,
        *,
        staging_bytes: int = 32 << 20,
        num_staging: int = 3,
        staged: bool | None = None,
        strided: bool | None = None,
        timed: bool = False,
    ) -> None:
        """`staged` says whether there is staging (default: not on the CPU), `strided` whether blocks that lie in few
        runs go straight to their places all the same (default: on CUDA devices). `timed`: events of placed layers have
        a time. Raises NotSupportedError for other devices than CPUs and CUDA's."""
        self.device = exact_device(device)
        self.timed = timed and self.device.type == "cuda"
        self.queue = MoveQueue(self.device, staging_bytes, num_staging, staged=staged, strided=strided)
        self.movers = Movers("objectcache-device")

    def ahead(self, places: Places, *, idle: bool = False, stream: Any = None) -> DeviceAhead:
        """For `match_and_retrieve`: what a local tier holds of the first layers is on its way to `places` (of all that
        is asked for, or of some layers) while it is not known yet what matches. They may be written whatever does.

        `idle`, `stream`: as `load`; where the places are still used nothing is taken. For one request each.
        """
        after = None if idle else current_mark(self.device, stream)
        return DeviceAhead(self.queue, self.device, places, after, stream=stream, timed=self.timed)

    def load(
        self,
        retrieval: Retrieval,
        places: Places,
        *,
        spans: Spans | None = None,
        ahead: DeviceAhead | None = None,
        idle: bool = False,
        stream: Any = None,
    ) -> DeviceRetrieval:
        """Put every layer of `retrieval` in its place as it lands. It is the loader's from here on, which closes it
        when all are copied.

        `spans` are what is put in place of each part; parts that it does not name have no places. Default: everything.
        `ahead` is what was given to `match_and_retrieve`, with the same places: what it has taken is in place.

        Nothing is written before what `stream` (default: the calling thread's current one) holds by now is done: it may
        still use the places. `idle` says that nothing does: layers come beside that work, and `wait` does not keep the
        host until it is done. Raises LayoutError when places are missing or of another size.
        """
        geometry = retrieval.geometry
        if ahead is not None and ahead.queue is not self.queue:
            ahead.wait_placed()  # nothing orders what is written from here
        if ahead is not None and (ahead.queue is not self.queue or spans is not None or not _counts(ahead, retrieval)):
            ahead.forbid(stream=stream)  # what it has written is of no use
            ahead = None
        if spans is None:
            spans = {index: (0, part.num_chunks) for index, part in enumerate(geometry.parts)}
        _check(geometry, spans, places, self.device)
        after = None if idle else current_mark(self.device, stream)
        loading = DeviceRetrieval(self, retrieval, places, spans, after, ahead)
        if ahead is not None:
            ahead.hand_over()
        return loading

    def close(self) -> None:
        """No thread of it waits for another load; those that move layers go on to the end."""
        self.movers.close()


class DeviceRetrieval(AbstractContextManager["DeviceRetrieval"]):
    """A retrieval on its way to the device, moved by a thread meanwhile. Made by `DeviceLoader.load`.

    Large layers are moved section by section, as these land, verified. So the place of a layer that never came may hold
    some of it; nobody is told of it as placed.
    """

    def __init__(
        self,
        loader: DeviceLoader,
        retrieval: Retrieval,
        places: Places,
        spans: Spans,
        after: Event,
        ahead: DeviceAhead | None,
    ) -> None:
        self.retrieval = retrieval
        self._loader = loader
        self._places = places
        self._spans = spans
        self._after = after
        self._condition = threading.Condition()
        self._placed: dict[int, Event] = {}
        self._error: ObjectCacheError | None = None
        self._ended = False
        self._moving = threading.Lock()  # held while something is queued, and to forbid it
        self._closing = False
        geometry = retrieval.geometry
        self._missing = {
            layer: sum(geometry.parts[part].num_chunks for part in geometry.parts_of(layer)) for layer in geometry.order
        }
        """Chunks by layer, of all its parts."""
        self._taken = dict(ahead.taken) if ahead is not None else {}
        self._events: dict[int, Event] = dict(ahead.events) if ahead is not None else {}
        """Of layers that are queued in part: the latest of it."""
        self._last_copied: Event = ahead.copied if ahead is not None else None
        self._last_placed: Event = ahead.placed if ahead is not None else None
        self._over = threading.Event()
        loader.movers.run(self._run)

    @property
    def error(self) -> ObjectCacheError | None:
        """Why no further layer comes, if so. Those that `wait` lets pass stay good."""
        return self._error

    def is_queued(self, layer: int) -> bool:
        """Whether `wait` would not keep the host."""
        return layer in self._placed

    def placed(self, layer: int) -> Event:
        """The moment when `layer`, which is queued, is in its place."""
        return self._placed[layer]

    def wait(self, layer: int, *, stream: Any = None, timeout_s: float | None = None) -> None:
        """What `stream` (default: the current one) is given from here on finds `layer` in its place.

        The host waits only until the layer has landed and its copy is queued. Raises what the delivery failed with,
        DeliveryTimeoutError past `timeout_s` or the delivery's deadline, LayoutError for a layer that is not delivered.
        """
        if layer not in self._placed:
            if not self.retrieval.geometry.parts_of(layer):
                raise LayoutError(f"layer {layer} is not delivered")
            with self._condition:
                self._condition.wait_for(lambda: layer in self._placed or self._ended, timeout_s)
            if layer not in self._placed:
                raise self._error or DeliveryTimeoutError(f"layer {layer} did not land in time")
        current_wait(self._loader.device, self._placed[layer], stream)

    def join(self, timeout_s: float | None = None) -> bool:
        """Whether, within `timeout_s`, everything is in place (or will not come) and the retrieval closed."""
        return self._over.wait(timeout_s)

    def forbid(self, *, stream: Any = None) -> None:
        """As `close`, for places: none is written by anything that comes after this call. Waits for the copy of one
        section, and no longer; the memory goes back later, by itself or with `close`."""
        with self._moving:
            self._closing = True
        current_wait(self._loader.device, self._last_placed, stream)
        self._end(DeliveryCancelledError("the retrieval was closed"))

    def close(self, *, stream: Any = None) -> None:
        """Done: no place is written by anything that comes after this call in `stream` (default: the current one).

        Cancels what has not landed; waits for copies under way, since they read the retrieval's memory.
        """
        self.forbid(stream=stream)
        self._give_back()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _give_back(self) -> None:
        """The host's memory, once no copy reads it."""
        try:
            host_wait(self._last_copied)
        finally:  # a device that is lost copies nothing
            self.retrieval.close()

    def _end(self, error: ObjectCacheError | None) -> None:
        with self._condition:
            if not self._ended:
                self._ended = True
                if len(self._placed) < len(self.retrieval.geometry.order):
                    self._error = error
            self._condition.notify_all()

    def _run(self) -> None:
        error: ObjectCacheError | None = None
        leave_bound_core()
        try:
            make_current(self._loader.device)
            # By this thread, not by the scatters' stream: others load through it meanwhile.
            host_wait(self._after)
            with torch.inference_mode():  # engines make their caches in it, and only in it can they be written
                for chunks in self.retrieval.follow():
                    self._move(chunks)
        except ObjectCacheError as failure:
            error = failure
        except Exception as failure:  # noqa: BLE001 - torch's errors have no common class; the waiting engine is told
            error = DeliveryError(f"a layer could not be moved to {self._loader.device}: {failure!r}")
            error.__cause__ = failure
        finally:
            self._end(error)
            try:
                self._give_back()
                host_wait(self._last_placed)  # until then the places' memory must not go to somebody else
            finally:
                self._places = {}
                self._over.set()

    def _move(self, chunks: Chunks) -> None:
        part, layer = chunks.part, chunks.layer
        with self._moving:
            if self._closing:
                raise DeliveryCancelledError("the retrieval was closed")
            span = self._spans.get(part, (0, 0))
            first, stop = max(chunks.first, span[0], self._taken.get((part, layer), 0)), min(chunks.stop, span[1])
            if first < stop:
                blocks = self.retrieval.blocks(layer, part, first, stop)
                place, placed = self._places[part, layer], self._events.get(layer)
                if placed is None and self._loader.timed:
                    placed = timed_event()
                self._last_copied, self._last_placed = self._loader.queue.move(blocks, place, first - span[0], placed)
                self._events[layer] = self._last_placed
        self._missing[layer] -= chunks.num
        if not self._missing[layer]:
            with self._condition:
                self._placed[layer] = self._events.pop(layer, None)
                self._condition.notify_all()


def _counts(ahead: DeviceAhead, retrieval: Retrieval) -> bool:
    """Whether all that it has taken is what `retrieval` delivers, and no more than that."""
    parts = retrieval.geometry.parts
    return retrieval.ahead is ahead and all(
        part < len(parts) and chunks <= parts[part].num_chunks for (part, _), chunks in ahead.taken.items()
    )


def _check(geometry: DeliveryGeometry, spans: Spans, places: Places, device: torch.device) -> None:
    for part, (first, stop) in spans.items():
        if not 0 <= first < stop <= geometry.parts[part].num_chunks:
            raise LayoutError(f"chunks [{first}, {stop}) of part {part} are not all delivered")
    for layer in geometry.order:
        for part in geometry.parts_of(layer):
            if part not in spans:
                continue
            place = places.get((part, layer))
            if place is None:
                raise LayoutError(f"layer {layer} of part {part} has no place")
            shape = geometry.parts[part]
            first, stop = spans[part]
            expected = (stop - first, shape.slice_bytes[geometry.position(part, layer)])
            if (place.num_chunks, place.slice_bytes) != expected or place.device != device:
                raise LayoutError(
                    f"layer {layer} of part {part} is {expected[0]} slices of {expected[1]} bytes for {device}; its "
                    f"place takes {place.num_chunks} of {place.slice_bytes} on {place.device}"
                )
