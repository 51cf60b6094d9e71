"""Reading from a store that is far away: the requests of `requests`, many at a time, each verified as it lands.

Retrievals of one prefix that run at once share requests: one asks, and when the answer is there the others get it too.
Nobody waits for another's delivery, nor holds a thread while an answer is on its way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from objectcache.cache.flights import Bytes, Flight, Flights
from objectcache.cache.landing import Landing
from objectcache.cache.reading import Reading
from objectcache.cache.requests import LIMIT_BYTES, Content, Request, plan_requests
from objectcache.keys import KeyChain
from objectcache.plan import Plan
from objectcache.segment import CommittedLayer
from objectcache.stores import ObjectReader

REQUESTS_AT_ONCE = 24
"""Under way at once, over all retrievals of a cache. A connection to S3 carries some 80 MB/s."""


class Scratch:
    """Memory that answers land in when not all of them is wanted, or not in one place. Kept for the next; thread-safe.

    As much as there are requests under way, at most LIMIT_BYTES each.
    """

    def __init__(self) -> None:
        self._free: deque[npt.NDArray[np.uint8]] = deque()

    @contextmanager
    def take(self, length: int) -> Iterator[npt.NDArray[np.uint8]]:
        """`length` bytes with anything in them, until the end of the context."""
        if length > LIMIT_BYTES:
            yield np.empty(length, np.uint8)
            return
        try:
            memory = self._free.pop()
        except IndexError:
            memory = np.empty(LIMIT_BYTES, np.uint8)
        try:
            yield memory[:length]
        finally:
            self._free.append(memory)


@dataclass(eq=False, slots=True)
class _LayerProgress:
    """One layer run. What lands before the digest row waits for it."""

    layer: CommittedLayer
    row: bytes | None = None
    waiting: list[Content] = field(default_factory=list)


class FarReading(Reading[Request]):
    """A task is a request. Requests are begun in delivery order, and land in any."""

    def __init__(
        self,
        plan: Plan,
        keys: Sequence[KeyChain],
        readers: Mapping[str, ObjectReader],
        landing: Landing,
        *,
        on_gone: Callable[[str], None],
        on_damage: Callable[[str], None],
        scratch: Scratch,
        on_read: Callable[[int], None],
        flights: Flights,
    ) -> None:
        """`on_read(bytes)` is told of each request."""
        self._scratch = scratch
        self._on_read = on_read
        self._flights = flights
        self._asked: dict[tuple[int, str], Flight] = {}
        self._progress: dict[int, _LayerProgress] = {}
        super().__init__(plan, keys, readers, landing, on_gone=on_gone, on_damage=on_damage)

    def _make_tasks(self) -> Iterator[Request]:
        return plan_requests(self._plan)

    def _submit(self, task: Request) -> None:
        flight = self._flights.join((task.segment, task.begin, task.end), partial(self._landed, task))
        if flight is None:
            return  # another reading asks already
        self._asked[task.begin, task.segment] = flight
        assert self._executor is not None
        try:
            self._executor.submit(self._run, task).add_done_callback(partial(self._answered, task))
        except RuntimeError:
            self._finish(task, None)
            self._abandon()

    def _answered(self, task: Request, submitted: Future[None]) -> None:
        self._finish(task, None)  # where it failed, or was not run
        self._ended(submitted)

    def _finish(self, task: Request, data: memoryview | None) -> None:
        """Tell those who wait for the same."""
        flight = self._asked.pop((task.begin, task.segment), None)
        if flight is not None:
            self._flights.finish(flight, data)

    def _landed(self, task: Request, data: Bytes | None) -> None:
        """Another reading has had the answer, or no luck."""
        if data is None and self._flights.closed:
            self._abandon()  # an executor that is ending holds its lock now: to ask it would be to wait for ever
            return
        if data is None and self._cancelled:
            self._end()
            return
        if data is None:
            self._submit(task)
            return
        assert self._executor is not None
        try:
            self._executor.submit(self._do, partial(self._take, task, data)).add_done_callback(self._ended)
        except RuntimeError:
            self._abandon()

    def _read(self, task: Request) -> Iterator[tuple[int, int]]:
        content = task.contents[0]
        self._on_read(task.length)
        with self._using(task.segment, content.layer_run.layer) as source:
            if len(task.contents) == 1 and not content.row:
                out, _ = self._place(content.layer_run, content.first, content.stop)
                source.read_into(task.begin, out)
                self._finish(task, out)
                yield from self._verified(content, b"")
                return
            with self._scratch.take(task.length) as answer:
                source.read_into(task.begin, answer.data)
                self._finish(task, answer.data)
                yield from self._distributed(task, answer)

    def _take(self, task: Request, data: Bytes) -> Iterator[tuple[int, int]]:
        """As `_read`, of an answer that is here. It is verified again: each for what it delivers."""
        with self._using(task.segment, task.contents[0].layer_run.layer):
            yield from self._distributed(task, data)

    def _distributed(self, task: Request, answer: Bytes) -> Iterator[tuple[int, int]]:
        """What of an answer is wanted, to its places."""
        for content in task.contents:
            if content.first < content.stop:
                at = content.slices_at - task.begin
                out, _ = self._place(content.layer_run, content.first, content.stop)
                # By numpy, which lets other threads run meanwhile.
                np.copyto(np.frombuffer(out, np.uint8), answer[at : at + len(out)])
            row = b""
            if content.row:
                at = content.row_at - task.begin
                row = answer[at : at + content.layer_run.row.row_bytes].tobytes()
            yield from self._verified(content, row)

    def _verified(self, content: Content, row: bytes) -> Iterator[tuple[int, int]]:
        """`content` is in the destination, and `row` is its digest row if it has one: verify what can be."""
        with self._lock:
            progress = self._progress.get(content.index)
            if progress is None:
                progress = self._progress[content.index] = _LayerProgress(self._committed(content.layer_run))
        if content.row:
            progress.layer.check_row(row)
        with self._lock:
            if content.row:
                progress.row = row
            ready = [*progress.waiting, content] if progress.row is not None else []
            progress.waiting = [] if ready else [*progress.waiting, content]
            known = progress.row
        for landed in ready:
            if landed.first == landed.stop:
                continue
            out, keys = self._place(landed.layer_run, landed.first, landed.stop)
            assert known is not None
            progress.layer.check_chunks(landed.first, landed.stop, keys, out, known)
            yield landed.layer_run.unit, len(out)
