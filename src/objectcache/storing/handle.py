"""One part's chunks on their way from the engine into the cache."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING

from objectcache.buffers import Buffer as Staged
from objectcache.cache.base import UploadTicket
from objectcache.errors import BufferPoolExhaustedError, ObjectCacheError, RequestError, StoreFullError
from objectcache.integrity import Buffer
from objectcache.storing.in_flight import Claim
from objectcache.storing.lanes import Lane
from objectcache.storing.reasons import Reason
from objectcache.storing.source import LayerSource, source_of
from objectcache.storing.together import Together
from objectcache.storing.writer import Wanted, WriterEvents

if TYPE_CHECKING:
    from objectcache.storing.queue import StoreQueue


class _State(Enum):
    TAKING = auto()  # layers
    FINISHING = auto()  # the engine has said that the step was clean
    COMMITTING = auto()  # whether it is visible is no longer decided here
    STORED = auto()
    DROPPED = auto()


class StoreHandle:
    """Takes the layers of chunks [first, stop) of one part, in the part's order, and never blocks or raises.

    Made by `StoreQueue.begin`. Whatever goes wrong drops it, as a whole; nothing is visible before `finish` has been
    called and everything is in the store. Calls may come from any thread, but those of one handle one at a time.
    """

    def __init__(
        self,
        queue: StoreQueue,
        number: int,
        wanted: Wanted,
        claim: Claim,
        on_copied: Callable[[int], None] | None,
        on_settled: Callable[[StoreHandle], None] | None,
    ) -> None:
        self.first, self.stop = wanted.offered, wanted.stop
        self._queue = queue
        self._number = number
        self._wanted = wanted
        self._claim = claim
        self._on_copied = on_copied
        self._on_settled = on_settled
        shard = wanted.namespace.layout.shard(wanted.part.group, wanted.part.shard)
        self._layers, self._slice_bytes = shard.layers, shard.slice_bytes
        self._layer_bytes = [size * (wanted.stop - wanted.offered) for size in shard.slice_bytes]
        self._next = 0
        self._state = _State.TAKING
        self._lane = Lane()
        self._lock = threading.Lock()
        self._staged: dict[int, Staged] = {}
        self._sources: dict[int, memoryview] = {}  # that the writer has yet to copy
        self._opened = False  # the writer knows it
        self._together: Together | None = None
        self._done = threading.Event()
        self._ended = threading.Event()
        self._late_s: float | None = None
        self._aborted_s: float | None = None  # since when the writer knows that it is dropped
        self.segments = 0
        self.reason: Reason | None = None
        self.error: ObjectCacheError | None = None

    # -- for the engine ---------------------------------------------------------------------------

    def layer(self, layer: int, source: LayerSource | Buffer, *, wait_s: float = 0.0) -> bool:
        """Layer number `layer` of the model: its slices of chunks [first, stop), in their order.

        Returns at once. True: a storing thread will have `source` copied, and then `on_copied(layer)` is called; until
        then what it reads must not change. False: dropped, and `source` is not looked at. With `wait_s` it waits so
        long for room, for callers that compute nothing.
        """
        position = self._next
        if self._state is not _State.TAKING:
            return False
        if position == len(self._layers) or self._layers[position] != layer:
            self.drop(Reason.FAILED, RequestError(f"layer {layer} is not the {position + 1}th of {self._layers}"))
            return False
        if self._on_copied is not None:
            self._queue.writer.reap()
        try:
            staged = self._queue.staging.take(self._layer_bytes[position], wait_s)
        except BufferPoolExhaustedError as error:
            self.drop(Reason.BACKLOG, error)
            return False
        except ObjectCacheError as error:
            self.drop(Reason.CLOSED, error)
            return False
        self._next += 1
        if not (self._opened and self._ordered(position, source, staged)):
            self._queue.submit(self._lane, partial(self._copy, position, source, staged))
        return True

    def finish(self) -> None:
        """The step was clean: make it visible once all of it is stored. Parts of one step: `StoreQueue.finish`."""
        self._queue.finish([self])

    def abandon(self) -> None:
        """Store nothing of it. Harmless after `finish`, and where it was dropped."""
        self.drop_unfinished(Reason.ABANDONED)

    @property
    def stored(self) -> bool:
        """Whether it is visible. Final once `wait` returns true."""
        return self._state is _State.STORED

    @property
    def stored_chunks(self) -> int:
        """Chunks made visible by it: without those that were stored already."""
        return self._wanted.stop - self._wanted.first if self.stored else 0

    def wait(self, timeout_s: float) -> bool:
        """Whether it is visible or dropped within `timeout_s`; if dropped, `reason` and perhaps `error` say why."""
        return self._done.wait(timeout_s)

    # -- for the queue ----------------------------------------------------------------------------

    @property
    def payload_bytes(self) -> int:
        return sum(self._slice_bytes) * (self._wanted.stop - self._wanted.first)

    @property
    def finishes(self) -> bool:
        """Whether `finish` means anything: not a second time."""
        return self._state in (_State.TAKING, _State.DROPPED)

    def start(self) -> None:
        self._queue.submit(self._lane, self._open)

    def finish_with(self, together: Together) -> None:
        with self._lock:
            taking = self._state is _State.TAKING
            if taking:
                self._state = _State.FINISHING
                self._together = together
                self._late_s = time.monotonic() + self._queue.options.finish_s
        if taking:
            self._queue.submit(self._lane, self._finish)
        else:
            together.dropped(self)

    def begin_commit(self) -> bool:
        with self._lock:
            finishing = self._state is _State.FINISHING
            if finishing:
                self._state = _State.COMMITTING
            return finishing

    def committed(self) -> None:
        with self._lock:
            self._state = _State.STORED
        self._settle()

    def commit_failed(self, error: ObjectCacheError) -> None:
        with self._lock:
            if self._state is not _State.COMMITTING:
                return
            self._state = _State.FINISHING
            self._together = None
        self._failed(error)

    def drop(self, reason: Reason, error: ObjectCacheError | None = None) -> None:
        """By its first reason. Not what is being committed."""
        with self._lock:
            if self._state not in (_State.TAKING, _State.FINISHING):
                return
            self._state = _State.DROPPED
            self.reason, self.error = reason, error
        self._queue.submit(self._lane, self._discard)  # behind what may be opening it
        if self._together is not None:
            self._together.dropped(self)
        self._settle()

    def drop_unfinished(self, reason: Reason) -> None:
        if self._state is _State.TAKING:
            self.drop(reason)

    def check(self, now_s: float) -> bool:
        """Drop it if it is late. True: the writer was told to drop it, and has not for too long."""
        if self._late_s is not None and now_s >= self._late_s:
            self.drop(Reason.LATE)
        since_s = self._aborted_s
        return since_s is not None and not self._ended.is_set() and now_s >= since_s + self._queue.options.unstick_s

    # -- in a storing thread ----------------------------------------------------------------------

    def _open(self) -> None:
        if self._state is _State.DROPPED:
            return
        try:
            first = self._queue.uncovered(self._wanted)
            if first > self._wanted.first:
                self._wanted = self._queue.trimmed(self._wanted, first)
            events = WriterEvents(self._copied, self._read, self._finished, self._failed, self._end)
            if first < self.stop:
                self._opened = self._queue.writer.open(self._number, self._wanted, events)
        except Exception as error:  # noqa: BLE001 - nothing that storing does may reach the engine
            self._failed(as_cache_error(error))
            return
        if not self._opened:
            self.drop(Reason.COVERED)

    def _ordered(self, position: int, source: LayerSource | Buffer, staged: Staged) -> bool:
        """Have the writer copy and write it, so that no thread of this process need copy. False where it cannot."""
        if not (isinstance(source, Buffer) and self._queue.writer.copies):
            return False
        view = memoryview(source)
        if view.nbytes != len(staged.view) or not view.c_contiguous:
            return False
        self._order(position, view, staged)
        return True

    def _copy(self, position: int, source: LayerSource | Buffer, staged: Staged) -> None:
        if self._opened and self._ordered(position, source, staged):
            return
        try:
            if self._state is not _State.DROPPED:
                source_of(source).copy_into(staged.view)
        except Exception as error:  # noqa: BLE001 - as above
            self._failed(as_cache_error(error))
        finally:
            del source
            self._tell_copied(position)
        self._order(position, None, staged)

    def _order(self, position: int, view: memoryview | None, staged: Staged) -> None:
        """Have it written, from staging or (what then copies it there) from `view`."""
        with self._lock:
            write = self._state is not _State.DROPPED
            if write:
                self._staged[position] = staged
                if view is not None:
                    self._sources[position] = view
        if not write:
            self._queue.staging.give_back(staged)
            if view is not None:
                self._tell_copied(position)
            return
        try:
            self._queue.writer.layer(self._number, position, staged, self._slice_bytes[position], view)
        except BufferPoolExhaustedError as error:
            self.drop(Reason.BACKLOG, error)  # with its end, `staged` comes back

    def _copied(self, position: int) -> None:
        """By the writer."""
        with self._lock:
            mine = self._sources.pop(position, None) is not None
        if mine:
            self._tell_copied(position)

    def _tell_copied(self, position: int) -> None:
        if self._on_copied is not None:
            self._on_copied(self._layers[position])

    def _finish(self) -> None:
        if self._next != len(self._layers):
            self._failed(RequestError(f"{self._next} of {len(self._layers)} layers were given"))
        elif self._state is _State.FINISHING:
            self._queue.writer.finish(self._number)

    def _discard(self) -> None:
        if self._opened:
            self._aborted_s = time.monotonic()
            self._queue.writer.abort(self._number)
        else:
            self._end([])

    def _settle(self) -> None:
        self._queue.settled(self, self._claim)
        if self._on_settled is not None:
            self._on_settled(self)
        self._done.set()
        self._leave()

    def _leave(self) -> None:
        if self._done.is_set() and self._ended.is_set():
            self._queue.forget(self)

    # -- from the writer --------------------------------------------------------------------------

    def _read(self, position: int) -> None:
        with self._lock:
            staged = self._staged.pop(position, None)
        if staged is not None:
            self._queue.staging.give_back(staged)

    def _finished(self, tickets: list[UploadTicket]) -> None:
        together = self._together
        assert together is not None
        self.segments = len(tickets)
        together.finished(self, tickets)

    def _failed(self, error: ObjectCacheError) -> None:
        self.drop(Reason.FULL if isinstance(error, StoreFullError) else Reason.FAILED, error)

    def _end(self, tickets: list[UploadTicket]) -> None:
        with self._lock:
            staged, self._staged = list(self._staged.values()), {}
            uncopied = sorted(self._sources)
        for position in uncopied:
            self._copied(position)
        for buffer in staged:
            self._queue.staging.give_back(buffer)
        if tickets:
            self._queue.discard(tickets)
        self._ended.set()
        self._leave()


def as_cache_error(error: Exception) -> ObjectCacheError:
    return error if isinstance(error, ObjectCacheError) else ObjectCacheError(repr(error))
