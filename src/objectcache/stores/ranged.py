"""Reading an object that is far away: several requests at once for a large range, some before they are asked for."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass

from objectcache.errors import StoreError, StoreUnavailableError
from objectcache.stores.base import ObjectInfo, ObjectReader, check_range
from objectcache.stores.prefetch import Piece, PrefetchBudget, Prefetched

_NO_BYTES = memoryview(b"")


class SupersededReadError(StoreError):
    """An answer that is of no use, though none would be wrong: to be asked for again by `_get`."""


@dataclass(slots=True)
class _Step:
    """A range of a read, and where it comes from: a piece that is here or on its way, or a request."""

    start: int
    stop: int
    piece: Piece | None
    answer: Future[memoryview] | None = None


class RangedReader(ObjectReader):
    """At most `width` requests of one read are under way. `patience_s` is how long one may take, with its queueing."""

    def __init__(self, info: ObjectInfo, budget: PrefetchBudget, *, width: int, patience_s: float) -> None:
        self.info = info
        self._width, self._patience_s = width, patience_s
        self._prefetched = Prefetched(budget)
        self._closed = False

    @abstractmethod
    def _cut(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """A range as the ranges of single requests."""

    @abstractmethod
    def _get(self, start: int, stop: int) -> memoryview:
        """Exactly that range, by one request. Blocks."""

    @abstractmethod
    def _begin(self, start: int, stop: int) -> Future[memoryview]:
        """The same, begun; what is not wanted any more is cancelled. Raises StoreError."""

    @abstractmethod
    def _begin_early(self, start: int, stop: int) -> Future[memoryview]:
        """The same without blocking, for what nobody waits for. Raises RuntimeError when it cannot be begun now."""

    def read_into(self, offset: int, out: memoryview) -> None:
        self._check_open()
        check_range(self.info, offset, out.nbytes)
        if not out.nbytes:
            return
        flat = out.cast("B")
        # The caller's thread writes, and nobody else: what is still under way after an error cannot reach `out`.
        for start, data in self._arriving(offset, offset + out.nbytes):
            flat[start - offset : start - offset + data.nbytes] = data

    def pieces(self, offset: int, length: int) -> Iterator[memoryview]:
        self._check_open()
        check_range(self.info, offset, length)
        if length:
            yield from (data for _, data in self._arriving(offset, offset + length))

    def prefetch(self, offset: int, length: int) -> None:
        start, stop = max(offset, 0), min(offset + length, self.info.size_bytes)
        if start < stop and not self._closed:
            try:
                self._prefetched.begin(start, stop, self._cut, self._begin_early)
            except RuntimeError:
                return  # the store is closed or busy, or the interpreter ends

    def close(self) -> None:
        self._closed = True
        self._prefetched.close()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(f"the reader of {self.info.name!r} is closed")

    def _arriving(self, start: int, stop: int) -> Iterator[tuple[int, memoryview]]:
        """All of the range, in order, in pieces."""
        steps = deque(self._steps(start, stop))
        if len(steps) == 1 and steps[0].piece is None:
            yield start, self._get(start, stop)
            return
        begun: deque[_Step] = deque()
        try:
            while steps or begun:
                while steps and len(begun) < self._width:
                    step = steps.popleft()
                    if step.piece is None:
                        step.answer = self._begin(step.start, step.stop)
                    begun.append(step)
                step = begun.popleft()
                yield step.start, self._finished(step)
        finally:
            for step in begun:
                if step.answer is not None:
                    step.answer.cancel()

    def _steps(self, start: int, stop: int) -> Iterator[_Step]:
        for piece in self._prefetched.overlapping(start, stop):
            yield from self._requests(start, piece.start)
            start = max(start, piece.start)
            yield _Step(start, min(stop, piece.stop), piece)
            start = min(stop, piece.stop)
        yield from self._requests(start, stop)

    def _requests(self, start: int, stop: int) -> Iterator[_Step]:
        if start < stop:
            yield from (_Step(at, end, None) for at, end in self._cut(start, stop))

    def _finished(self, step: _Step) -> memoryview:
        if step.piece is None:
            try:
                return self._result(step.answer) if step.answer is not None else _NO_BYTES
            except SupersededReadError:
                return self._get(step.start, step.stop)
        piece = step.piece
        try:
            data = self._result(piece.bytes_)[step.start - piece.start : step.stop - piece.start]
        except StoreError:
            self._prefetched.drop(piece)
            self._check_open()
            return self._get(step.start, step.stop)  # a hint that failed is no failure yet
        self._prefetched.picked_up(piece, step.stop - step.start)
        return data

    def _result(self, answer: Future[memoryview]) -> memoryview:
        """A request is bounded in time; a queue of them before it is not."""
        try:
            return answer.result(self._patience_s)
        except TimeoutError as error:
            raise StoreUnavailableError(f"reading {self.info.name!r} takes too long: too many reads at once") from error
        except CancelledError as error:
            raise StoreError(f"{self.info.name!r} was closed while it was read") from error
