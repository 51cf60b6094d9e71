"""Many small requests to a store that is far away: several at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from types import TracebackType

from objectcache.errors import StoreError
from objectcache.stores.base import Store

WIDTH = 16


def delete_all(store: Store, names: Sequence[str]) -> dict[str, StoreError]:
    """Delete what has one of `names`, in that order where the store is near. Those that failed, and how."""
    failed: dict[str, StoreError] = {}

    def delete(name: str) -> None:
        try:
            store.delete(name)
        except StoreError as error:
            failed[name] = error

    if not store.far or len(names) < 2:
        for name in names:
            delete(name)
        return failed
    with ThreadPoolExecutor(WIDTH, thread_name_prefix="delete") as pool:
        list(pool.map(delete, names))
    return failed


class ExpectedObjects(AbstractContextManager["ExpectedObjects"]):
    """Whole objects of `store`. `names` are expected, about in this order: up to WIDTH are under way, if it is far."""

    def __init__(self, store: Store, names: Iterable[str]) -> None:
        self._store = store
        self._names = iter(names if store.far else ())
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
