"""One open file of the tier: a segment of some layers of a prefix, read and verified as any segment."""

from __future__ import annotations

import os
from collections.abc import Sequence
from threading import Lock

from objectcache.descriptor import Versions
from objectcache.errors import IntegrityError, RangeError, StoreUnavailableError
from objectcache.keys import KeyChain
from objectcache.segment import SegmentReader
from objectcache.stores.read_cache_extents import Extents
from objectcache.tier.names import TierName, decode_versions


class _Source:
    """Ranges of a file descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, offset: int, length: int) -> bytes:
        out = bytearray(length)
        self.read_into(offset, memoryview(out))
        return bytes(out)

    def read_into(self, offset: int, out: memoryview) -> None:
        try:
            while out:
                count = os.preadv(self._descriptor, [out], offset)
                if not count:
                    raise RangeError("a file of the local tier ends early")
                out, offset = out[count:], offset + count
        except OSError as error:
            raise StoreUnavailableError(f"reading the local tier failed: {error.strerror}") from error


class TierFile:
    """An open file: evicted or not, it stays readable. Thread-safe."""

    def __init__(self, path: str, name: TierName, descriptor: int) -> None:
        self.path = path
        self.name = name
        self._descriptor = descriptor
        self._lock = Lock()
        self._reader: SegmentReader | None = None

    def _opened(self) -> SegmentReader:
        with self._lock:
            if self._reader is None:
                self._reader = SegmentReader.open(_Source(self._descriptor))
            return self._reader

    def versions(self) -> Versions:
        """Raises IntegrityError."""
        header = self._opened().header
        try:
            versions = decode_versions(header.name)
        except ValueError as error:
            raise IntegrityError(f"a file of the local tier names no versions: {error}") from error
        if sum(chunks for chunks, _ in versions) != header.num_chunks:
            raise IntegrityError("a file of the local tier names versions of another number of chunks")
        return versions

    def keys(self) -> KeyChain:
        """Raises IntegrityError."""
        return self._opened().header.keys

    def check(
        self,
        namespace: bytes,
        part: tuple[int, int],
        layers: Sequence[int],
        slice_bytes: Sequence[int],
        keys: KeyChain,
    ) -> None:
        """Raises IntegrityError unless this is what its name and place say, and begins with `keys`."""
        header = self._opened().header
        if (header.namespace, header.group, header.shard) != (namespace, *part) or (
            (header.layers, header.slice_bytes) != (tuple(layers), tuple(slice_bytes))
        ):
            raise IntegrityError("a file of the local tier is of other layers than its name says")
        if header.keys[: len(keys)].data != keys.data:
            raise IntegrityError("a file of the local tier is of other chunks than its name says")

    def read(self, position: int, count: int, out: memoryview) -> None:
        """The first `count` slices of the layer at `position` of its own, verified. Raises IntegrityError."""
        self._opened().read_chunks(position, 0, count, out)

    def touch(self, extents: Extents) -> None:
        """It is used now."""
        extents.touch(self._descriptor)

    def close(self) -> None:
        with self._lock:
            descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
