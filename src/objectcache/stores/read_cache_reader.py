"""An object of which a read cache keeps extents, while it is read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Lock

from objectcache.errors import StoreError
from objectcache.stores.base import FileRange, ObjectInfo, ObjectReader, check_range
from objectcache.stores.read_cache_extents import Extent, Extents
from objectcache.stores.read_cache_fetches import Fetches

AT_ONCE = 16
"""How many extents are brought at once for one read, and at most lie behind one `files`."""


@dataclass(frozen=True, slots=True)
class ReadCacheCounters:
    """Since the store was opened, in this process. Hits and misses are extents that were asked for."""

    hits: int
    misses: int
    fetched_bytes: int
    evicted_extents: int


class Tally:
    """Counts for `ReadCacheCounters`. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._hits = self._misses = self._fetched_bytes = 0

    def add(self, *, hits: int = 0, misses: int = 0, fetched_bytes: int = 0) -> None:
        with self._lock:
            self._hits += hits
            self._misses += misses
            self._fetched_bytes += fetched_bytes

    def counters(self, evicted_extents: int) -> ReadCacheCounters:
        with self._lock:
            return ReadCacheCounters(self._hits, self._misses, self._fetched_bytes, evicted_extents)


class ExtentsOf:
    """Where the extents of one object are, and how they come there."""

    def __init__(self, directory: str, size_bytes: int, extent_bytes: int) -> None:
        self._path = f"{directory}/{size_bytes:x}-{extent_bytes:x}"
        self._size_bytes, self._extent_bytes = size_bytes, extent_bytes

    def of(self, offset: int, length: int) -> Iterator[Extent]:
        """Those in which the range lies, in order."""
        first = offset // self._extent_bytes
        for index in range(first, -(-(offset + length) // self._extent_bytes) if length else first):
            at = index * self._extent_bytes
            yield Extent(f"{self._path}-{index:x}", at, min(self._extent_bytes, self._size_bytes - at))


class CachedReader(ObjectReader):
    """Reads by extents: what is missing is fetched in whole extents, once, and read from the local disk.

    Also small reads wait for their extent. What is read first of a layer is its digest row, and no slice can be sent
    before its own extent is there, which is mostly the same one: a request for the row alone would be paid for, and
    answer nothing sooner.

    Descriptors are opened for each use: it takes microseconds, an extent that was evicted or discarded by any process
    is noticed at once, and no unlinked file keeps its blocks for longer than a read.
    """

    def __init__(
        self,
        info: ObjectInfo,
        open_source: Callable[[], ObjectReader],
        source: ObjectReader | None,
        layout: ExtentsOf,
        extents: Extents,
        fetches: Fetches,
        tally: Tally,
    ) -> None:
        """`source` is the object itself, where it is open; else `open_source` opens it, once something is missing."""
        self.info = info
        self._open_source = open_source
        self._layout, self._extents, self._fetches, self._tally = layout, extents, fetches, tally
        self._lock = Lock()
        self._source = source
        self._closed = False

    def read_into(self, offset: int, out: memoryview) -> None:
        check_range(self.info, offset, out.nbytes)
        self._check_open()
        view = out.cast("B") if out.nbytes else out
        wanted = list(self._layout.of(offset, out.nbytes))
        for at in range(0, len(wanted), AT_ONCE):
            batch = wanted[at : at + AT_ONCE]
            with self._opened(batch) as descriptors:
                for extent, descriptor in zip(batch, descriptors, strict=True):
                    first = max(offset, extent.offset)
                    stop = min(offset + out.nbytes, extent.offset + extent.size_bytes)
                    part = view[first - offset : stop - offset]
                    if descriptor is None or not _read(descriptor, part, first - extent.offset):
                        self._source_of().read_into(first, part)

    @contextmanager
    def files(self, offset: int, length: int) -> Iterator[Sequence[FileRange] | None]:
        """None also for more than AT_ONCE extents, or a good part of all that may be kept: they are read in pieces."""
        check_range(self.info, offset, length)
        self._check_open()
        wanted = list(self._layout.of(offset, length))
        if len(wanted) > AT_ONCE or (len(wanted) > 1 and 4 * length > self._extents.limit_bytes):
            yield None
            return
        with self._opened(wanted) as descriptors:
            ranges = []
            for extent, descriptor in zip(wanted, descriptors, strict=True):
                if descriptor is None:
                    break
                first, stop = max(offset, extent.offset), min(offset + length, extent.offset + extent.size_bytes)
                ranges.append(FileRange(descriptor, first - extent.offset, stop - first))
            yield ranges if len(ranges) == len(wanted) else None

    def prefetch(self, offset: int, length: int) -> None:
        offset = max(0, offset)
        for extent in self._layout.of(offset, max(0, min(length, self.info.size_bytes - offset))):
            if not self._extents.holds(extent):
                self._fetches.announce(extent.path, partial(self._fetch, extent))

    def close(self) -> None:
        with self._lock:
            self._closed = True
            source, self._source = self._source, None
        if source is not None:
            source.close()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(f"the reader of {self.info.name!r} is closed")

    def _source_of(self) -> ObjectReader:
        with self._lock:
            self._check_open()
            if self._source is None:
                self._source = self._open_source()
            return self._source

    @contextmanager
    def _opened(self, wanted: Sequence[Extent]) -> Iterator[list[int | None]]:
        """Descriptors of `wanted`, brought here first; None for those that cannot be kept."""
        descriptors: list[int | None] = []
        try:
            for extent in wanted:
                descriptors.append(self._extents.open(extent))
            missing = [index for index, descriptor in enumerate(descriptors) if descriptor is None]
            self._tally.add(hits=len(wanted) - len(missing), misses=len(missing))
            if missing:
                self._fetches.bring([(wanted[index].path, partial(self._fetch, wanted[index])) for index in missing])
                for index in missing:
                    descriptors[index] = self._extents.open(wanted[index])
            yield descriptors
        finally:
            for descriptor in descriptors:
                if descriptor is not None:
                    os.close(descriptor)

    def _fetch(self, extent: Extent) -> None:
        """Bring an extent to the disk, if there is room for it. Raises StoreError."""
        if self._extents.holds(extent):
            return  # since it was announced
        writing = self._extents.begin(extent.size_bytes)
        if writing is None:
            return
        try:
            at = 0
            for piece in self._source_of().pieces(extent.offset, extent.size_bytes):
                if not self._extents.write(writing, piece, at):
                    return
                at += piece.nbytes
        except BaseException:
            writing.drop()
            raise
        self._tally.add(fetched_bytes=extent.size_bytes)
        self._extents.place(writing, extent.path)


def _read(descriptor: int, out: memoryview, at: int) -> bool:
    """Fill `out` from a file; False where the disk cannot give it."""
    try:
        while out:
            count = os.preadv(descriptor, [out], at)
            if not count:
                return False
            out, at = out[count:], at + count
    except OSError:
        return False
    return True
