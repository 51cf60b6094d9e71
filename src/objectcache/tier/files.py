"""One open file of the tier: a segment of some layers of a prefix, read and verified as any segment, or mapped."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from threading import Lock

import numpy as np
import numpy.typing as npt

from objectcache.descriptor import Versions
from objectcache.errors import IntegrityError, RangeError, StoreUnavailableError
from objectcache.keys import KeyChain
from objectcache.pages import PAGE_BYTES, FileWindow
from objectcache.segment import SegmentReader
from objectcache.stores.read_cache_extents import TOUCH_INTERVAL_S, Extents
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


Beginning = tuple[int, int, bytes]
"""Where a file's chunks begin: group, shard, and the first one's key."""
Registrar = Callable[[int, int], Callable[[], None]]
"""As `BufferPool.register` takes them."""


class MappedLayer:
    """All slices of one layer of a file, verified when they were mapped, and registered."""

    def __init__(self, descriptor: int, reader: SegmentReader, position: int, registrars: Sequence[Registrar]) -> None:
        """`descriptor` may also be written. Raises IntegrityError, OSError, and what registrars raise."""
        header = reader.header
        start, size = header.geometry.slice_offset(position, 0), header.geometry.layer_bytes(position)
        before = start % PAGE_BYTES
        self._window = FileWindow(descriptor, start - before, before + size, writable=True)
        self._undo: list[Callable[[], None]] = []
        self.slices: npt.NDArray[np.uint8] = self._window.data[before:].reshape(header.num_chunks, -1)
        """uint8 [chunks, slice_bytes], to be read only."""
        try:
            reader.check_layer(position, self.slices.reshape(-1).data)
            for registrar in registrars:
                self._undo.append(registrar(self._window.address, self._window.length))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Nobody reads it any more."""
        del self.slices
        for undo in self._undo:
            undo()
        self._window.close()


class TierFile:
    """An open file: evicted or not, it stays readable, until everybody who shares it has closed it. Thread-safe."""

    def __init__(self, path: str, name: TierName, descriptor: int) -> None:
        self.path = path
        self.name = name
        self._descriptor = descriptor
        self._lock = Lock()
        self._reader: SegmentReader | None = None
        self._users = 1
        self._mapped: dict[int, MappedLayer] = {}
        self._identity: tuple[int, int] | None = None  # of one that is mapped
        self._touched_s = -TOUCH_INTERVAL_S

    def share(self) -> TierFile:
        """Itself, to be closed once more."""
        with self._lock:
            self._users += 1
        return self

    @property
    def users(self) -> int:
        return self._users

    # -- mapped -----------------------------------------------------------------------------------

    def map(self, registrars: Sequence[Registrar]) -> None:
        """Every layer, verified and registered; costs milliseconds. Once, by one thread, before others share it.

        It is not open any more then: there may be more files than a process may have open. Raises IntegrityError,
        StoreUnavailableError, and what registrars raise; what is mapped by then is usable, and the rest can be read.
        """
        reader = self._opened()
        try:
            # As its own descriptor cannot be, and by it, since the name may be another file's by now.
            descriptor = os.open(f"/proc/self/fd/{self._descriptor}", os.O_RDWR | os.O_CLOEXEC)
            try:
                for position in range(len(reader.header.layers)):
                    self._mapped[position] = MappedLayer(descriptor, reader, position, registrars)
                found = os.fstat(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StoreUnavailableError(f"mapping a file of the local tier failed: {error.strerror}") from error
        self._identity = found.st_ino, found.st_dev
        os.close(self._descriptor)
        self._descriptor = -1

    @property
    def mapped_layers(self) -> int:
        return len(self._mapped)

    @property
    def mapped_bytes(self) -> int:
        return sum(layer.slices.nbytes for layer in self._mapped.values())

    def mapped(self, position: int, count: int) -> npt.NDArray[np.uint8] | None:
        """The first `count` slices of the layer at `position`, where it is mapped: valid until `close`, read only."""
        layer = self._mapped.get(position)
        return None if layer is None else layer.slices[:count]

    @property
    def is_in_place(self) -> bool:
        """Of one that is mapped: whether its path still names this very file."""
        try:
            found = os.stat(self.path)
        except OSError:
            return False
        return self._identity in (None, (found.st_ino, found.st_dev))

    # -- read -------------------------------------------------------------------------------------

    def _opened(self) -> SegmentReader:
        reader = self._reader
        if reader is not None:
            return reader
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

    @property
    def beginning(self) -> Beginning:
        """Raises IntegrityError."""
        header = self._opened().header
        return header.group, header.shard, header.keys[0]

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

    def read(self, position: int, first: int, stop: int, out: memoryview) -> None:
        """Slices [first, stop) of the layer at `position` of its own, verified. Raises IntegrityError."""
        self._opened().read_chunks(position, first, stop, out)

    def touch(self, extents: Extents) -> None:
        """It is used now. Of one that stays open, not more often than its time is noted."""
        now_s = time.monotonic()
        if now_s - self._touched_s >= TOUCH_INTERVAL_S / 2:
            self._touched_s = now_s
            extents.touch(self.path if self._descriptor < 0 else self._descriptor)

    def close(self) -> None:
        """Once by whoever opened it, and by each who shares it."""
        with self._lock:
            self._users -= 1
            if self._users:
                return
        for layer in self._mapped.values():
            layer.close()
        self._mapped.clear()
        if self._descriptor >= 0:
            os.close(self._descriptor)
