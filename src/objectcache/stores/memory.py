"""Objects in this process's memory: for tests, demonstrations, and as the model of what a store is."""

from __future__ import annotations

import os
import re
import time
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count
from threading import RLock
from uuid import uuid4
from weakref import WeakValueDictionary

from objectcache.errors import (
    ConfigError,
    ObjectChangedError,
    ObjectExistsError,
    ObjectNotFoundError,
    StoreError,
)
from objectcache.integrity import Buffer
from objectcache.stores.base import (
    ANY_ETAG,
    ObjectInfo,
    ObjectReader,
    ObjectUpload,
    Store,
    StoreUsage,
    check_metadata,
    check_name,
    check_prefix,
    check_range,
)
from objectcache.stores.budget import ByteBudget

_SCHEME = "memory://"
_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_PAGE = 256
"""Names that a listing takes under one hold of the lock."""

_registry_lock = RLock()
_alive: WeakValueDictionary[str, MemoryStore] = WeakValueDictionary()
_kept: dict[str, MemoryStore] = {}
"""Those that were opened by URL: they stay when nobody holds them, as a store that one comes back to should."""


class MemoryStore(Store):
    """Objects in memory, gone with the store. `limit_bytes` defaults to half of the machine's memory.

    `open_store` of its `url` gives the same object, in this process only: elsewhere it would be another, empty one.
    """

    def __init__(self, limit_bytes: int | None = None, *, id: str | None = None) -> None:
        self._id = uuid4().hex if id is None else id
        if not _ID.fullmatch(self._id):
            raise ConfigError(f"a memory store's id is 1 to 128 of A-Z a-z 0-9 . _ -, got {self._id!r}")
        self.url = _SCHEME + self._id
        self._budget = ByteBudget(_half_of_memory_bytes() if limit_bytes is None else limit_bytes)
        self._objects: dict[str, tuple[ObjectInfo, bytearray]] = {}
        self._names: list[bytes] = []
        self._versions = count(1)
        with _registry_lock:
            if self._id in _alive:
                raise ConfigError(f"a memory store named {self._id!r} exists already")
            _alive[self._id] = self

    def upload(
        self,
        name: str,
        *,
        size_bytes: int | None = None,
        if_absent: bool = False,
        if_match: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectUpload:
        check_name(name)
        kept = dict(check_metadata(metadata or {}))
        self._budget.reserve(size_bytes or 0)
        return _MemoryUpload(self, name, size_bytes or 0, _Publication(if_absent, if_match, kept))

    def open(self, name: str, *, size_bytes: int | None = None) -> ObjectReader:
        return _MemoryReader(*self._find(name))

    def head(self, name: str) -> ObjectInfo:
        return self._find(name)[0]

    def _find(self, name: str) -> tuple[ObjectInfo, bytearray]:
        found = self._objects.get(check_name(name))
        if found is None:
            raise ObjectNotFoundError(f"{name!r} is not in {self.url}")
        return found

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        begin, after = prefix.encode("utf-8", "surrogatepass"), start_after.encode("utf-8", "surrogatepass")
        while True:
            with self._budget.lock:
                first = max(bisect_left(self._names, begin), bisect_right(self._names, after))
                names = [name for name in self._names[first : first + _PAGE] if name.startswith(begin)]
                page = [replace(self._objects[name.decode()][0], metadata={}) for name in names]
            if not page:
                return
            yield from page
            after = names[-1]

    def list_prefixes(self, prefix: str = "") -> Iterator[str]:
        check_prefix(prefix)
        last = ""
        for info in self.list(prefix):
            directory = info.name[: info.name.find("/", len(prefix)) + 1]
            if len(directory) > len(prefix) and directory != last:
                yield directory
                last = directory

    def delete(self, name: str) -> None:
        check_name(name)
        with self._budget.lock:
            gone = self._objects.pop(name, None)
            if gone is not None:
                del self._names[bisect_left(self._names, name.encode())]
                self._budget.settle(0, -gone[0].size_bytes)

    def usage(self) -> StoreUsage:
        return self._budget.usage()

    def _publish(
        self, name: str, data: bytearray, reserved_bytes: int, how: _Publication, etag: str = ""
    ) -> ObjectInfo:
        with self._budget.lock:
            replaced = self._objects.get(name)
            if replaced is not None and how.if_absent:
                raise ObjectExistsError(f"{name!r} is in {self.url} already")
            if how.if_match:
                if replaced is None:
                    raise ObjectNotFoundError(f"{name!r} is not in {self.url}")
                if how.if_match not in (ANY_ETAG, replaced[0].etag):
                    raise ObjectChangedError(f"{name!r} has the etag {replaced[0].etag}, not {how.if_match}")
            if replaced is None:
                insort(self._names, name.encode())
            info = ObjectInfo(name, len(data), time.time(), etag or f"{next(self._versions):x}", how.metadata)
            self._objects[name] = info, data
            self._budget.settle(reserved_bytes, len(data) - (replaced[0].size_bytes if replaced else 0))
            return info


class _MemoryReader(ObjectReader):
    def __init__(self, info: ObjectInfo, data: bytearray) -> None:
        self.info = info
        self._data: memoryview | None = memoryview(data)

    def read_into(self, offset: int, out: memoryview) -> None:
        data = self._data
        if data is None:
            raise StoreError(f"the reader of {self.info.name!r} is closed")
        check_range(self.info, offset, out.nbytes)
        if out.nbytes:  # views of no bytes cannot be cast
            out.cast("B")[:] = data[offset : offset + out.nbytes]

    def close(self) -> None:
        self._data = None


@dataclass(frozen=True, slots=True)
class _Publication:
    """Under what conditions an object appears, and with what."""

    if_absent: bool
    if_match: str
    metadata: dict[str, str]


class _MemoryUpload(ObjectUpload):
    def __init__(self, store: MemoryStore, name: str, reserved_bytes: int, how: _Publication) -> None:
        self._store, self._name, self._how = store, name, how
        self._reserved_bytes = reserved_bytes
        self._data: bytearray | None = bytearray()

    def _running(self) -> bytearray:
        if self._data is None:
            raise StoreError(f"the upload of {self._name!r} has ended")
        return self._data

    def write(self, data: Buffer) -> None:
        written = self._running()
        more_bytes = len(written) + memoryview(data).nbytes - self._reserved_bytes
        if more_bytes > 0:
            try:
                self._store._budget.reserve(more_bytes)
            except StoreError:
                self.abort()
                raise
            self._reserved_bytes += more_bytes
        written += data

    def add_metadata(self, metadata: Mapping[str, str]) -> None:
        self._how = replace(self._how, metadata=dict(check_metadata({**self._how.metadata, **metadata})))

    def publish(self, *, etag: str = "") -> ObjectInfo:
        data = self._running()
        try:
            info = self._store._publish(self._name, data, self._reserved_bytes, self._how, etag)
        except StoreError:
            self.abort()
            raise
        self._data = None
        return info

    def abort(self) -> None:
        if self._data is not None:
            self._data = None
            self._store._budget.settle(self._reserved_bytes)


def named_memory_store(id: str, limit_bytes: int | None = None) -> MemoryStore:
    """The store `memory://<id>` of this process, made when there is none, and kept for the life of the process.

    Raises ConfigError when it exists with another limit than the one asked for.
    """
    with _registry_lock:
        store = _alive.get(id) or MemoryStore(limit_bytes, id=id)
        _kept[id] = store
    if limit_bytes not in (None, store.usage().limit_bytes):
        raise ConfigError(f"{store.url} is open with a limit of {store.usage().limit_bytes} bytes, not {limit_bytes}")
    return store


def _half_of_memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
