"""Reading an object of S3: ranged GETs, several at once for a large range, some of them before they are asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

from objectcache.errors import ObjectChangedError, StoreError, StoreUnavailableError
from objectcache.stores.base import ObjectInfo, ObjectReader, check_range
from objectcache.stores.s3.calls import S3Calls
from objectcache.stores.s3.prefetch import Piece, PrefetchBudget, Prefetched

_NO_BYTES = memoryview(b"")


class S3Fetching:
    """What the readers of one store share: threads, the size of a GET, and the memory for what is read ahead."""

    def __init__(self, part_bytes: int, threads: int, prefetch_bytes: int) -> None:
        self.part_bytes, self.threads = part_bytes, threads
        self.budget = PrefetchBudget(prefetch_bytes)
        self.reads: Executor = ThreadPoolExecutor(threads, thread_name_prefix="s3-read")
        # Threads of their own, so that reads do not queue behind what nobody waits for yet.
        self.prefetches: Executor = ThreadPoolExecutor(threads, thread_name_prefix="s3-prefetch")

    def close(self) -> None:
        for threads in (self.reads, self.prefetches):
            threads.shutdown(wait=False, cancel_futures=True)


@dataclass(slots=True)
class _Step:
    """A range of a read, and where it comes from: a piece that is here or on its way, or a GET."""

    start: int
    stop: int
    piece: Piece | None
    answer: Future[memoryview] | None = None


class S3Reader(ObjectReader):
    """An object as it was when it was opened, or, opened with its size only, first read: If-Match sees to that.

    Reads of an object that was deleted or replaced since raise ObjectNotFoundError or ObjectChangedError.
    """

    def __init__(self, info: ObjectInfo, key: str, calls: S3Calls, fetching: S3Fetching) -> None:
        self.info = info
        self._key, self._calls, self._fetching = key, calls, fetching
        self._etag = info.etag
        self._etag_lock = Lock()
        self._prefetched = Prefetched(fetching.budget)
        self._closed = False

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
                self._prefetched.begin(
                    start,
                    stop,
                    self._fetching.part_bytes,
                    lambda at, end: self._submit(self._fetching.prefetches, at, end),
                )
            except RuntimeError:
                return  # the store is closed, or the interpreter ends

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
                while steps and len(begun) < self._fetching.threads:
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
            yield from self._gets(start, piece.start)
            start = max(start, piece.start)
            yield _Step(start, min(stop, piece.stop), piece)
            start = min(stop, piece.stop)
        yield from self._gets(start, stop)

    def _gets(self, start: int, stop: int) -> Iterator[_Step]:
        for at in range(start, stop, self._fetching.part_bytes):
            yield _Step(at, min(at + self._fetching.part_bytes, stop), None)

    def _finished(self, step: _Step) -> memoryview:
        if step.piece is None:
            return self._result(step.answer) if step.answer is not None else _NO_BYTES
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
        """A GET is bounded in time; a queue of them before it is not, so that twice as long is too long."""
        try:
            return answer.result(2 * self._calls.timing.bound_s)
        except TimeoutError as error:
            raise StoreUnavailableError(f"reading {self.info.name!r} takes too long: too many reads at once") from error
        except CancelledError as error:
            raise StoreError(f"{self.info.name!r} was closed while it was read") from error

    def _begin(self, start: int, stop: int) -> Future[memoryview]:
        try:
            return self._submit(self._fetching.reads, start, stop)
        except RuntimeError as error:
            raise StoreError(f"the store of {self.info.name!r} is closed") from error

    def _submit(self, threads: Executor, start: int, stop: int) -> Future[memoryview]:
        return threads.submit(self._get, start, stop)

    def _get(self, start: int, stop: int) -> memoryview:
        """Exactly that range, of the object that this reader is of."""
        data, stored = self._calls.get(self._key, start, stop, self._etag)
        with self._etag_lock:
            self._etag = self._etag or stored.etag
        if stored.size_bytes != self.info.size_bytes or stored.etag != self._etag:
            raise ObjectChangedError(
                f"{self.info.name!r} is not what was opened: it has {stored.size_bytes} bytes and the etag "
                f"{stored.etag}, not {self.info.size_bytes} and {self._etag}"
            )
        return data
