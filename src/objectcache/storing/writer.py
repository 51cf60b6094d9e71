"""Who writes staged layers into the cache: threads of this process, or a process of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from objectcache.buffers import Buffer
from objectcache.cache.base import KVCache, PartId, UploadTicket
from objectcache.errors import ObjectCacheError
from objectcache.keys import KeyChain, Namespace
from objectcache.storing.segments import SegmentBegin, SegmentEvents, SegmentThreads, Tickets

WRITING_THREADS = 4


@dataclass(frozen=True, slots=True)
class Wanted:
    """One store: chunks [first, stop) of a part, to lie in segments of at most `segment_chunks`.

    Its layers come with the slices of chunks [offered, stop): those before `first` are not written.
    """

    namespace: Namespace
    chain: KeyChain
    part: PartId
    offered: int
    first: int
    stop: int
    segment_chunks: int

    @property
    def segments(self) -> list[tuple[int, int]]:
        """Chunks [first, stop) of each."""
        step = self.segment_chunks
        return [(first, min(first + step, self.stop)) for first in range(self.first, self.stop, step)]


@dataclass(frozen=True, slots=True)
class WriterEvents:
    """What a writer tells of one store, from threads of its own (or in `reap`); none of it may block.

    `on_copied(position)`: what a layer was copied from is free again, where the writer copies. `on_read(position)`: it
    reads that layer's staging memory no more. `on_finished(tickets)`: every segment is whole, or covered (those have no
    ticket). `on_failed(error)`: it will not be. `on_ended(tickets)`: the last of all, nothing of it is read or written
    any more; `tickets` are of segments that are whole though the store is not.
    """

    on_copied: Callable[[int], None]
    on_read: Callable[[int], None]
    on_finished: Callable[[list[UploadTicket]], None]
    on_failed: Callable[[ObjectCacheError], None]
    on_ended: Callable[[list[UploadTicket]], None]


class Writer(ABC):
    """Stores by number. For each: `open`, `layer` in order, then `finish` or `abort`."""

    processes = 0
    """How many were started so far."""

    @property
    def copies(self) -> bool:
        """Whether `layer` takes sources that are buffers, and copies them behind the engine's back."""
        return False

    @abstractmethod
    def open(self, number: int, wanted: Wanted, events: WriterEvents) -> bool:
        """Begin; False when all of it is covered. May block, as asking a gateway does.

        Raises ObjectCacheError. There are then no events, as there are none after False.
        """

    @abstractmethod
    def layer(
        self, number: int, position: int, staged: Buffer, slice_bytes: int, source: memoryview | None = None
    ) -> None:
        """The layer at `position`: the slices of all offered chunks lie in `staged`, or are to be copied there from
        `source`, which the caller keeps as it is.

        Raises BufferPoolExhaustedError when too many are on their way.
        """

    @abstractmethod
    def finish(self, number: int) -> None:
        """All layers were given."""

    @abstractmethod
    def abort(self, number: int) -> None:
        """Give it up. Harmless where it has ended."""

    @abstractmethod
    def reap(self) -> None:
        """Have `on_read` called for what has been read since, where it is not called at once."""

    @abstractmethod
    def unstick(self) -> None:
        """A store that was given up does not end: do what can be done, if anything."""

    @abstractmethod
    def close(self, timeout_s: float) -> None: ...


class ThreadWriter(Writer):
    """Threads of this process, through the cache itself."""

    def __init__(self, cache: KVCache) -> None:
        self._cache = cache
        self._segments = SegmentThreads(WRITING_THREADS)

    def open(self, number: int, wanted: Wanted, events: WriterEvents) -> bool:
        segments = [
            SegmentBegin(
                partial(self._cache.store, wanted.namespace, wanted.chain, wanted.part, first=first, stop=stop),
                first - wanted.offered,
                stop - wanted.offered,
            )
            for first, stop in wanted.segments
        ]
        told = SegmentEvents(
            events.on_read,
            lambda tickets: events.on_finished(present(tickets)),
            events.on_failed,
            lambda tickets: events.on_ended(present(tickets)),
        )
        self._segments.open(number, segments, told)
        return True

    def layer(
        self, number: int, position: int, staged: Buffer, slice_bytes: int, source: memoryview | None = None
    ) -> None:
        self._segments.layer(number, position, staged.view, slice_bytes)

    def finish(self, number: int) -> None:
        self._segments.finish(number)

    def abort(self, number: int) -> None:
        self._segments.abort(number)

    def reap(self) -> None:
        """Nothing: it is called at once."""

    def unstick(self) -> None:
        """Nothing: no thread can be ended from outside."""

    def close(self, timeout_s: float) -> None:
        self._segments.close(timeout_s)


def present(tickets: Tickets) -> list[UploadTicket]:
    return [ticket for ticket in tickets if ticket is not None]
