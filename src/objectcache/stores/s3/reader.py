"""Reading an object of S3: ranged GETs, several at once for a large range, some of them before they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from threading import Lock

from objectcache.errors import ObjectChangedError, StoreError
from objectcache.stores.base import ObjectInfo
from objectcache.stores.prefetch import PrefetchBudget
from objectcache.stores.ranged import RangedReader
from objectcache.stores.s3.calls import S3Calls


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


class S3Reader(RangedReader):
    """An object as it was when it was opened, or, opened with its size only, first read: If-Match sees to that.

    Reads of an object that was deleted or replaced since raise ObjectNotFoundError or ObjectChangedError.
    """

    def __init__(self, info: ObjectInfo, key: str, calls: S3Calls, fetching: S3Fetching) -> None:
        # A queue of GETs that takes as long again as a GET may is too long.
        super().__init__(info, fetching.budget, width=fetching.threads, patience_s=2 * calls.timing.bound_s)
        self._key, self._calls, self._fetching = key, calls, fetching
        self._etag = info.etag
        self._etag_lock = Lock()

    def _cut(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        for at in range(start, stop, self._fetching.part_bytes):
            yield at, min(at + self._fetching.part_bytes, stop)

    def _begin(self, start: int, stop: int) -> Future[memoryview]:
        try:
            return self._submit(self._fetching.reads, start, stop)
        except RuntimeError as error:
            raise StoreError(f"the store of {self.info.name!r} is closed") from error

    def _begin_early(self, start: int, stop: int) -> Future[memoryview]:
        return self._submit(self._fetching.prefetches, start, stop)

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
