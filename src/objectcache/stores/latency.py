"""A store as if it were far away: every request takes a while and is counted. Wraps any other."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import ClassVar, TypeVar

from objectcache.integrity import Buffer
from objectcache.stores.base import ObjectInfo, ObjectReader, ObjectUpload, Store, StoreUsage, check_name, check_range

T = TypeVar("T")

LIST_PAGE = 1000
"""Names, or prefixes, that one LIST brings, as with S3."""
PART_BYTES = 8 << 20
"""What an upload sends as one request."""


class LatencyStore(Store):
    """`store`, each request `latency_s` away. They are counted by kind, as S3's are: `get`, `head`, `put`, `multipart`,
    `list`, `delete`.

    `skew_s` is how far the store's clock is ahead. `before` is called first with each request's kind, name and offset
    (of a `get`), from the thread that asks: it may block, or raise a StoreError.
    """

    far: ClassVar[bool] = True

    def __init__(
        self,
        store: Store,
        latency_s: float = 0.0,
        *,
        skew_s: float = 0.0,
        before: Callable[[str, str, int], None] = lambda kind, name, offset: None,
    ) -> None:
        self.url = store.url
        self.latency_s = latency_s
        self.skew_s = skew_s
        self.before = before
        self.most_at_once = 0
        self._store = store
        self._counts: Counter[str] = Counter()
        self._running = 0
        self._lock = threading.Lock()

    def request_counts(self) -> Mapping[str, int]:
        with self._lock:
            return dict(self._counts)

    def request(self, kind: str, name: str, offset: int = 0) -> None:
        """One round trip."""
        with self._lock:
            self._counts[kind] += 1
            self._running += 1
            self.most_at_once = max(self.most_at_once, self._running)
        try:
            self.before(kind, name, offset)
            if self.latency_s:
                time.sleep(self.latency_s)
        finally:
            with self._lock:
                self._running -= 1

    def _seen(self, info: ObjectInfo) -> ObjectInfo:
        return replace(info, modified_s=info.modified_s + self.skew_s)

    def upload(
        self,
        name: str,
        *,
        size_bytes: int | None = None,
        if_absent: bool = False,
        if_match: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectUpload:
        upload = self._store.upload(
            name, size_bytes=size_bytes, if_absent=if_absent, if_match=if_match, metadata=metadata
        )
        return _FarUpload(self, name, upload)

    def open(self, name: str, *, size_bytes: int | None = None) -> ObjectReader:
        check_name(name)
        info = self.head(name) if size_bytes is None else ObjectInfo(name, size_bytes, 0.0, "")
        return _FarReader(self, self._store, info)

    def get(self, name: str) -> bytes:
        self.request("get", name)
        return self._store.get(name)

    def head(self, name: str) -> ObjectInfo:
        self.request("head", name)
        return self._seen(self._store.head(name))

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        return map(self._seen, self._paged(prefix, self._store.list(prefix, start_after=start_after)))

    def list_prefixes(self, prefix: str = "") -> Iterator[str]:
        return self._paged(prefix, self._store.list_prefixes(prefix))

    def _paged(self, prefix: str, items: Iterator[T]) -> Iterator[T]:
        """One request a page; another one to learn that a full page was the last."""
        while True:
            self.request("list", prefix)
            page = list(itertools.islice(items, LIST_PAGE))
            yield from page
            if len(page) < LIST_PAGE:
                return

    def delete(self, name: str) -> None:
        self.request("delete", name)
        self._store.delete(name)

    def usage(self) -> StoreUsage:
        return self._store.usage()

    def close(self) -> None:
        """The wrapped store stays open: other wrappers may share it."""


class _FarReader(ObjectReader):
    def __init__(self, far: LatencyStore, store: Store, info: ObjectInfo) -> None:
        self.info = info
        self._far, self._store = far, store

    def read_into(self, offset: int, out: memoryview) -> None:
        check_range(self.info, offset, out.nbytes)
        self._far.request("get", self.info.name, offset)
        with self._store.open(self.info.name) as reader:
            reader.read_into(offset, out)

    def close(self) -> None:
        """Nothing is held open between two reads."""


class _FarUpload(ObjectUpload):
    """One PUT for what fits a part; otherwise one to begin, one a part, one to complete."""

    def __init__(self, far: LatencyStore, name: str, upload: ObjectUpload) -> None:
        self._far, self._name, self._upload = far, name, upload
        self._bytes = 0

    def write(self, data: Buffer) -> None:
        self._upload.write(data)
        self._bytes += memoryview(data).nbytes

    def add_metadata(self, metadata: Mapping[str, str]) -> None:
        self._upload.add_metadata(metadata)

    def publish(self, *, etag: str = "") -> ObjectInfo:
        parts = -(-self._bytes // PART_BYTES)
        try:
            for _ in range(1 if parts <= 1 else parts + 2):
                self._far.request("put" if parts <= 1 else "multipart", self._name)
        except BaseException:
            self.abort()
            raise
        return self._far._seen(self._upload.publish(etag=etag))

    def abort(self) -> None:
        self._upload.abort()
