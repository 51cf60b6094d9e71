"""A store in front of another that counts what is asked of it, and can be slow or broken."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping

from objectcache.errors import StoreError
from objectcache.stores import ObjectInfo, ObjectReader, ObjectUpload, Store, StoreUsage


class CountingStore(Store):
    """Of `store`: `reads` are (name, offset, length) in order; `opens` the names. Lazy, as a store far away is.

    Each read takes `latency_s`, waits for `gate` unless its name is in `free`, and raises what `fault(name, offset)`
    returns.
    """

    far = True

    def __init__(self, store: Store, *, latency_s: float = 0.0) -> None:
        self._store = store
        self.url = store.url
        self.latency_s = latency_s
        self.gate = threading.Event()
        self.gate.set()
        self.free: set[str] = set()
        self.fault: Callable[[str, int], StoreError | None] = lambda name, offset: None
        self.opens: list[str] = []
        self.reads: list[tuple[str, int, int]] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()

    def open(self, name: str, *, size_bytes: int | None = None) -> ObjectReader:
        info = self._store.head(name) if size_bytes is None else ObjectInfo(name, size_bytes, 0.0, "")
        self.opens.append(name)
        return _CountingReader(self, self._store, info)

    def upload(
        self,
        name: str,
        *,
        size_bytes: int | None = None,
        if_absent: bool = False,
        if_match: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectUpload:
        return self._store.upload(
            name, size_bytes=size_bytes, if_absent=if_absent, if_match=if_match, metadata=metadata
        )

    def head(self, name: str) -> ObjectInfo:
        return self._store.head(name)

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        return self._store.list(prefix, start_after=start_after)

    def list_prefixes(self, prefix: str = "") -> Iterator[str]:
        return self._store.list_prefixes(prefix)

    def delete(self, name: str) -> None:
        self._store.delete(name)

    def usage(self) -> StoreUsage:
        return self._store.usage()


class _CountingReader(ObjectReader):
    def __init__(self, counting: CountingStore, store: Store, info: ObjectInfo) -> None:
        self._counting, self._store = counting, store
        self.info = info
        self._closed = False

    def read_into(self, offset: int, out: memoryview) -> None:
        counting = self._counting
        if self._closed:
            raise StoreError("closed")
        with counting.lock:
            counting.reads.append((self.info.name, offset, out.nbytes))
            counting.at_once += 1
            counting.most_at_once = max(counting.most_at_once, counting.at_once)
        try:
            assert self.info.name in counting.free or counting.gate.wait(30)
            time.sleep(counting.latency_s)
            error = counting.fault(self.info.name, offset)
            if error is not None:
                raise error
            with self._store.open(self.info.name) as reader:
                reader.read_into(offset, out)
        finally:
            with counting.lock:
                counting.at_once -= 1

    def close(self) -> None:
        self._closed = True
