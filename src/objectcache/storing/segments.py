"""Segments of stores, written side by side by threads: in the engine's process, or in the storing process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from objectcache.cache.base import SegmentUpload, UploadTicket
from objectcache.errors import ObjectCacheError
from objectcache.storing.lanes import Lane, Lanes

Tickets = list[UploadTicket | None]
"""By segment; None for those that are covered, or not whole."""


class SegmentBegin(NamedTuple):
    """`begin()` gives the upload of chunks [first, stop), counted from the first that is offered; None: covered."""

    begin: Callable[[], SegmentUpload | None]
    first: int
    stop: int


@dataclass(frozen=True, slots=True)
class SegmentEvents:
    """As `writer.WriterEvents`, with tickets by segment."""

    on_read: Callable[[int], None]
    on_finished: Callable[[Tickets], None]
    on_failed: Callable[[ObjectCacheError], None]
    on_ended: Callable[[Tickets], None]


@dataclass(eq=False)
class _Segment:
    how: SegmentBegin
    lane: Lane = field(default_factory=Lane)
    upload: SegmentUpload | None = None
    ticket: UploadTicket | None = None


@dataclass(eq=False)
class _Store:
    number: int
    segments: list[_Segment]
    events: SegmentEvents
    lock: threading.Lock = field(default_factory=threading.Lock)
    reading: dict[int, int] = field(default_factory=dict)  # segments that have yet to write each layer
    unfinished: int = 0
    unended: int = 0
    ending: bool = False  # nothing more is written

    def tickets(self) -> Tickets:
        return [segment.ticket for segment in self.segments]


class SegmentThreads:
    """Every segment is written in order, several beside each other, on `threads` threads."""

    def __init__(self, threads: int) -> None:
        self._lanes = Lanes(threads, "objectcache-write")
        self._lock = threading.Lock()
        self._stores: dict[int, _Store] = {}

    def open(self, number: int, segments: Sequence[SegmentBegin], events: SegmentEvents) -> None:
        store = _Store(number, [_Segment(how) for how in segments], events)
        store.unfinished = store.unended = len(segments)
        with self._lock:
            self._stores[number] = store
        self._each(store, self._begin)

    def layer(self, number: int, position: int, data: memoryview, slice_bytes: int) -> None:
        """Slices of all offered chunks of the layer at `position`; `on_read` says when `data` is free again, and
        `on_ended` where it never does."""
        store = self._find(number)
        if store is None:
            return
        with store.lock:  # so that nothing is read, or said to be, behind the end of a store
            if store.ending:
                return
            store.reading[position] = len(store.segments)
            for segment in store.segments:
                self._lanes.submit(segment.lane, partial(self._read, store, segment, position, data, slice_bytes))

    def finish(self, number: int) -> None:
        """All layers were given: `on_finished`, or `on_failed`, then `on_ended` follow."""
        if (store := self._find(number)) is not None:
            self._each(store, self._finish)

    def abort(self, number: int) -> None:
        if (store := self._find(number)) is not None:
            self._give_up(store)

    def fail(self, number: int, error: ObjectCacheError) -> None:
        """Something went wrong around it: as if writing had failed."""
        if (store := self._find(number)) is not None:
            self._give_up(store, error)

    def close(self, timeout_s: float) -> None:
        self._lanes.close(timeout_s)

    def _each(self, store: _Store, step: Callable[[_Store, _Segment], None]) -> None:
        for segment in store.segments:
            self._lanes.submit(segment.lane, partial(self._guarded, store, partial(step, store, segment)))

    def _find(self, number: int) -> _Store | None:
        with self._lock:
            return self._stores.get(number)

    # -- in the threads ---------------------------------------------------------------------------

    def _guarded(self, store: _Store, step: Callable[[], None]) -> None:
        if store.ending:
            return
        try:
            step()
        except ObjectCacheError as error:
            self._give_up(store, error)
        except Exception as error:  # noqa: BLE001 - whatever happens to one store, the thread goes on
            self._give_up(store, ObjectCacheError(repr(error)))

    def _begin(self, store: _Store, segment: _Segment) -> None:
        segment.upload = segment.how.begin()

    def _read(self, store: _Store, segment: _Segment, position: int, data: memoryview, slice_bytes: int) -> None:
        if segment.upload is not None:
            mine = data[segment.how.first * slice_bytes : segment.how.stop * slice_bytes]
            self._guarded(store, partial(segment.upload.write_layer, mine))
        with store.lock:
            store.reading[position] -= 1
            free = not store.reading[position]
        if free:
            store.events.on_read(position)

    def _finish(self, store: _Store, segment: _Segment) -> None:
        if segment.upload is not None:
            segment.ticket = segment.upload.finish()
            segment.upload = None
        with store.lock:
            store.unfinished -= 1
            finished = not store.unfinished and not store.ending
            if finished:
                store.ending = True
        if finished:
            store.events.on_finished(store.tickets())
            for done in store.segments:
                done.ticket = None  # they are the listener's now
            self._end(store)

    def _give_up(self, store: _Store, error: ObjectCacheError | None = None) -> None:
        with store.lock:
            if store.ending:
                return
            store.ending = True
        if error is not None:
            store.events.on_failed(error)
        for segment in store.segments:  # behind what is being written
            self._lanes.submit(segment.lane, partial(self._drop, store, segment))

    def _drop(self, store: _Store, segment: _Segment) -> None:
        if segment.upload is not None:
            with suppress(Exception):  # what cannot be dropped now was never visible, and expires
                segment.upload.abort()
            segment.upload = None
        with store.lock:
            store.unended -= 1
            ended = not store.unended
        if ended:
            self._end(store)

    def _end(self, store: _Store) -> None:
        with self._lock:
            del self._stores[store.number]
        store.events.on_ended(store.tickets())
