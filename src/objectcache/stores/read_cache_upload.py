"""An upload that leaves extents of the new object behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from objectcache.integrity import Buffer
from objectcache.stores.base import ObjectInfo, ObjectReader, ObjectUpload
from objectcache.stores.read_cache_extents import Extents, ExtentWrite
from objectcache.stores.read_cache_reader import ExtentsOf


class FillingUpload(ObjectUpload):
    """Writes `upload`; with `extent_bytes`, extents on the side, which get their names when the object has its own."""

    def __init__(
        self,
        upload: ObjectUpload,
        extents: Extents,
        layout: Callable[[int], ExtentsOf],
        discard: Callable[[], None],
        extent_bytes: int,
    ) -> None:
        """`layout(size_bytes)` says where they belong; `discard` removes those of an object that had the name."""
        self._upload = upload
        self._extents, self._layout, self._discard = extents, layout, discard
        self._extent_bytes = extent_bytes
        self._buffer = bytearray()
        self._written: list[ExtentWrite | None] = []

    def write(self, data: Buffer) -> None:
        try:
            self._upload.write(data)
        except BaseException:
            self._drop()
            raise
        view = memoryview(data)
        rest = view.cast("B") if view.nbytes else view
        while self._extent_bytes and rest.nbytes:
            taken = rest[: self._extent_bytes - len(self._buffer)]
            self._buffer += taken
            rest = rest[len(taken) :]
            if len(self._buffer) == self._extent_bytes:
                self._flush()

    def write_from(self, source: ObjectReader, offset: int, length: int) -> None:
        if self._extent_bytes:
            super().write_from(source, offset, length)
        else:
            self._upload.write_from(source, offset, length)

    def add_metadata(self, metadata: Mapping[str, str]) -> None:
        self._upload.add_metadata(metadata)

    def publish(self, *, etag: str = "") -> ObjectInfo:
        try:
            info = self._upload.publish(etag=etag)
        except BaseException:
            self._drop()
            raise
        self._discard()
        if self._buffer:
            self._flush()
        written, self._written = self._written, []
        for extent, writing in zip(self._layout(info.size_bytes).of(0, info.size_bytes), written, strict=False):
            if writing is not None:
                self._extents.place(writing, extent.path)
        return info

    def abort(self) -> None:
        self._drop()
        self._upload.abort()

    def _flush(self) -> None:
        """What was collected becomes an extent, if there is room for it."""
        size_bytes = len(self._buffer)
        writing = self._extents.begin(size_bytes)
        if writing is not None:
            with memoryview(self._buffer) as data:
                if not self._extents.write(writing, data):
                    writing = None
        self._written.append(writing)
        self._buffer.clear()

    def _drop(self) -> None:
        self._buffer.clear()
        written, self._written = self._written, []
        for writing in written:
            if writing is not None:
                writing.drop()
