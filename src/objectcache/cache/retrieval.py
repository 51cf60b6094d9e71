"""A delivery as its receiver sees it: layers that land in order in one destination, and waits for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import numpy.typing as npt

from objectcache.cache.ahead import Ahead
from objectcache.cache.in_place import InPlace
from objectcache.errors import DeliveryCancelledError, DeliveryError, DeliveryTimeoutError, ObjectCacheError
from objectcache.layout import Chunks, DeliveryGeometry, delivery_geometry


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """One unit that has landed and is verified: `layers`, and when (seconds on time.perf_counter)."""

    unit: int
    layers: tuple[int, ...]
    landed_s: float


class Retrieval(AbstractContextManager["Retrieval"]):
    """One delivery into `memory` (at least `geometry.total_bytes` bytes), laid out as `geometry` says.

    `reason` is why it has so many layers per unit, `rate_bytes_s` the rate to expect (None: nobody said).

    The transport calls `land_chunks` (or `land`) and `fail`; the user waits, iterates, reads views, and closes. Views
    are valid until `close`, which gives the memory back once nothing can write it any more.
    """

    def __init__(
        self,
        geometry: DeliveryGeometry,
        memory: memoryview,
        *,
        deadline_s: float,
        on_close: Callable[[bool], None] = lambda complete: None,
    ) -> None:
        """`deadline_s` is on time.perf_counter. `on_close(complete)` is called once; `complete` says that every unit
        has landed, so that nothing will be written any more."""
        self.geometry = geometry
        self.requested_s = time.perf_counter()
        self._memory = memory
        self._deadline_s = deadline_s
        self._on_close = on_close
        self._condition = threading.Condition()
        self.reason = ""
        self.rate_bytes_s: float | None = None
        self.count_bytes: Callable[[], int] | None = None  # the transport's, where it counts
        self.on_windows: Callable[[Sequence[float], float], None] | None = None
        self._sources = geometry  # whose units the transport counts by
        self._landed_s: list[float] = [0.0] * len(geometry.units)
        self._unit_of = geometry.unit_of
        self._last_s = 0.0
        self._next = self._announced = 0
        self._arrived: set[int] = set()
        self._in_place: InPlace | None = None
        self.ahead: Ahead | None = None
        """Who has some of what lands already, as it was asked for: by index of the part, chunks from the first on."""
        self._landed: list[Chunks] = []
        self._early: dict[int, list[Chunks]] = {}  # of units that others are before
        self._followed = False
        self._error: ObjectCacheError | None = None
        self._closed = False

    # -- for the transport ------------------------------------------------------------------------

    @property
    def memory(self) -> memoryview:
        """The destination. Only the transport writes it."""
        return self._memory

    def read_in_place(self, in_place: InPlace, ahead: Ahead | None = None) -> None:
        """Some chunks are in the tier's memory, and will not be in this; what `ahead` has taken are some of these.
        Before they land."""
        self._in_place = in_place
        self.ahead = ahead

    def land(self, unit: int) -> None:
        """Unit `unit` is in the memory, verified. Parallel streams may be ahead: it lands once those before it have."""
        geometry = self._sources
        whole = (
            Chunks(part, layer, 0, geometry.parts[part].num_chunks)
            for layer in geometry.units[unit]
            for part in geometry.parts_of(layer)
        )
        self.land_chunks(unit, whole, whole=True)

    def land_chunks(self, unit: int, chunks: Iterable[Chunks], *, whole: bool) -> None:
        """Those `chunks` of `unit` are in the memory, verified. `whole`: with these, and those that others are about to
        tell of, the unit is. Each chunk is told of once."""
        with self._condition:
            self._early.setdefault(unit, []).extend(chunks)
            if whole:
                self._arrived.add(unit)
            while self._next in self._arrived:
                self._arrived.discard(self._next)
                self._pass(self._next)
                self._next += 1
                self._last_s = time.perf_counter()
            for due in {min(unit, self._next), self._next}:
                self._pass(due)
            self._announce()

    def _pass(self, unit: int) -> None:
        """What has come of `unit`, on to whoever follows chunks. Holds the lock."""
        came = self._early.pop(unit, None)
        if came:
            self._landed += came
            if self._followed:
                self._condition.notify_all()

    def regroup(self, layers_per_unit: int, reason: str = "") -> None:
        """Announce units of so many layers, a multiple of what the transport counts by. Before anybody waits."""
        with self._condition:
            self.reason = reason
            self.geometry = delivery_geometry(self._sources.parts, layers_per_unit)
            self._landed_s = [0.0] * len(self.geometry.units)
            self._unit_of = self.geometry.unit_of
            self._announced = 0
            self._announce()

    def _announce(self) -> None:
        """Units whose layers are all there have landed. Holds the lock."""
        units, layers = self.geometry.units, self._landed_layers
        before = self._announced
        while self._announced < len(units) and self._unit_end(self._announced) <= layers:
            self._landed_s[self._announced] = self._last_s
            self._announced += 1
        if self._announced > before:
            self._condition.notify_all()

    @property
    def _landed_layers(self) -> int:
        return min(self._next * self._sources.layers_per_unit, len(self._sources.order))

    def _unit_end(self, unit: int) -> int:
        """How many layers there are up to the end of `unit`."""
        return min((unit + 1) * self.geometry.layers_per_unit, len(self.geometry.order))

    def fail(self, error: ObjectCacheError) -> None:
        """No further unit will land. Those that have landed stay good."""
        with self._condition:
            if self._error is None and not self.complete:
                self._error = error
                self._condition.notify_all()

    # -- for the user -----------------------------------------------------------------------------

    @property
    def complete(self) -> bool:
        return self._next == len(self._sources.units)

    @property
    def error(self) -> ObjectCacheError | None:
        return self._error

    def correct_windows(self, windows_s: Sequence[float], ready_in_s: float) -> None:
        """Tell the storage side that the windows of all layers are other than was said, and when layer 0 is asked for:
        in `ready_in_s` seconds; negative, so long ago. Returns at once; where nobody wants to know it does nothing."""
        if self.on_windows is not None and not self._closed:
            self.on_windows(windows_s, ready_in_s)

    def arrived_bytes(self) -> int:
        """Of the payload, what is there: to the last span that was verified, where the transport says so."""
        return sum(self._sources.unit_bytes[: self._next]) if self.count_bytes is None else self.count_bytes()

    @property
    def shows_progress(self) -> bool:
        """Whether `arrived_bytes` grows before all is there."""
        return self.count_bytes is not None or len(self._sources.units) > 1

    def landed_s(self, layer: int) -> float | None:
        """When `layer` landed (time.perf_counter), or None."""
        return self._landed_s[self._unit_of[layer]] or None

    def wait(self, layer: int, timeout_s: float | None = None) -> None:
        """Return when `layer` may be read.

        Raises DeliveryTimeoutError past `timeout_s` or the delivery's deadline, and what the delivery failed with.
        """
        unit = self._unit_of[layer]
        if self._landed_s[unit] and not self._closed:
            return
        until = self._deadline_s if timeout_s is None else min(self._deadline_s, time.perf_counter() + timeout_s)
        with self._condition:
            while not self._landed_s[unit]:
                self._wait_for_news(until, f"layer {layer}")
            if self._closed:
                raise DeliveryCancelledError("the retrieval was closed")

    def _wait_for_news(self, until_s: float, what: str) -> None:
        """Holds the lock. Raises when nothing more comes, or not before `until_s`."""
        if self._error is not None:
            raise self._error
        if self._closed:
            raise DeliveryCancelledError("the retrieval was closed")
        left = until_s - time.perf_counter()
        if left <= 0:
            raise DeliveryTimeoutError(f"{what} did not land in time")
        self._condition.wait(left)

    def wait_until(self, layer: int, timeout_s: float) -> bool:
        """Whether `layer` may be read within `timeout_s`. Raises like `wait` for anything but that."""
        try:
            self.wait(layer, timeout_s)
        except DeliveryTimeoutError:
            if self._error is not None or time.perf_counter() >= self._deadline_s:
                raise
            return False
        return True

    def __iter__(self) -> Iterator[LayerGroup]:
        """Units in delivery order, each as it lands. Raises like `wait`."""
        for unit, layers in enumerate(self.geometry.units):
            self.wait(layers[0])
            yield LayerGroup(unit, layers, self._landed_s[unit])

    def follow(self) -> Iterator[Chunks]:
        """All chunks, each once, as they may be read (`blocks`): of large units of one layer before these are whole.

        In the order of units; units of several layers are not cut. Raises like `wait`, once what came before is told.
        """
        if self.geometry.layers_per_unit > 1:
            for group in self:
                for layer in group.layers:
                    for part in self.geometry.parts_of(layer):
                        yield Chunks(part, layer, 0, self.geometry.parts[part].num_chunks)
            return
        left = sum(len(part.layers) * part.num_chunks for part in self.geometry.parts)
        told = 0
        while left:
            with self._condition:
                self._followed = True
                while told == len(self._landed):
                    self._wait_for_news(self._deadline_s, "what comes next")
                if self._closed:
                    raise DeliveryCancelledError("the retrieval was closed")
                chunks = self._landed[told]
            told += 1
            left -= chunks.num
            yield chunks

    def blocks(self, layer: int, part: int, first: int, stop: int) -> list[npt.NDArray[np.uint8]]:
        """Chunks [first, stop) of what `follow` has told of, in as many arrays (chunks, slice_bytes) as they lie in: no
        copy. They are only to be read: some may be in memory that others share. Raises what the delivery failed
        with, DeliveryCancelledError once it is closed."""
        if self._closed:
            raise self._error or DeliveryCancelledError("the retrieval was closed")
        if self._in_place is not None:
            return list(self._in_place.blocks(part, layer, first, stop))
        return [self._slices(layer, part)[first:stop]]

    def view(self, layer: int, part: int = 0) -> npt.NDArray[np.uint8]:
        """Chunks of `layer` of the part at index `part`: uint8 array (num_chunks, slice_bytes), no copy
        (but of what the local tier has in its own memory).

        Raises DeliveryError while the layer has not landed.
        """
        if self._closed or not self._landed_s[self._unit_of[layer]]:
            raise DeliveryError(f"layer {layer} has not landed: wait for it first")
        if self._in_place is not None:
            self._in_place.bring(part, layer)
        return self._slices(layer, part)

    def _slices(self, layer: int, part: int) -> npt.NDArray[np.uint8]:
        start = self.geometry.offset(part, layer)
        shape = self.geometry.parts[part]
        size = self.geometry.layer_bytes(part, layer)
        flat = np.frombuffer(self._memory[start : start + size], dtype=np.uint8)
        return flat.reshape(shape.num_chunks, -1)

    def close(self) -> None:
        """Done with the memory. Cancels what is still under way."""
        with self._condition:
            if self._closed:
                return
            self._closed = True
            complete = self.complete
            self._condition.notify_all()
        self._on_close(complete)

    cancel = close

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
