"""Small objects that are wanted one after the other, from a store that is far away: several are asked for at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from types import TracebackType

from objectcache.stores.base import Store

WIDTH = 16


class ExpectedObjects(AbstractContextManager["ExpectedObjects"]):
    """Whole objects of `store`. `names` are expected, about in this order: up to WIDTH of them are under way."""

    def __init__(self, store: Store, names: Iterable[str]) -> None:
        self._store = store
        self._names = iter(names)
        self._reads: deque[tuple[str, Future[bytes]]] = deque()
        self._pool = ThreadPoolExecutor(WIDTH, thread_name_prefix="ahead")
        self._fill()

    def _fill(self) -> None:
        while len(self._reads) < WIDTH and (name := next(self._names, None)) is not None:
            self._reads.append((name, self._pool.submit(self._store.get, name)))

    def get(self, name: str) -> bytes:
        """Raises like `Store.get`. A second time, and for what was not expected, the store is asked."""
        if not any(expected == name for expected, _ in self._reads):
            return self._store.get(name)
        while True:  # those before it are not wanted after all
            expected, read = self._reads.popleft()
            self._fill()
            if expected == name:
                return read.result()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
