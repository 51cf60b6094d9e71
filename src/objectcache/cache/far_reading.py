"""Reading from a store that is far away: the requests of `requests`, many at a time, each verified as it lands."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

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
    ) -> None:
        """`on_read(bytes)` is told of each request."""
        self._scratch = scratch
        self._on_read = on_read
        self._progress: dict[int, _LayerProgress] = {}
        super().__init__(plan, keys, readers, landing, on_gone=on_gone, on_damage=on_damage)

    def _make_tasks(self) -> Iterator[Request]:
        return plan_requests(self._plan)

    def _read(self, task: Request) -> Iterator[tuple[int, int]]:
        content = task.contents[0]
        self._on_read(task.length)
        with self._using(task.segment, content.layer_run.layer) as source:
            if len(task.contents) == 1 and not content.row:
                source.read_into(task.begin, self._place(content.layer_run, content.first, content.stop)[0])
                yield from self._verified(content, b"")
                return
            with self._scratch.take(task.length) as answer:
                source.read_into(task.begin, answer.data)
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
