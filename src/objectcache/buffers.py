"""Registered memory: a pool of destination buffers, with generations and quarantine.

The pool is one anonymous shared file (memfd), so that a receiving process, or a gateway's worker on the same host, can
map it too; unless nobody else is to have it. It is sealed: whoever has mapped it need not fear that it becomes shorter.
Pages are taken from the system when first written, unless they are asked for before. A buffer that something may still
write is in quarantine: not free until its fence is told.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from objectcache.errors import BufferPoolExhaustedError, ObjectCacheError
from objectcache.layout import align_up
from objectcache.pages import address_of, populate, private_memory, shared_memory

SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class BufferState(Enum):
    IN_USE = auto()
    QUARANTINED = auto()
    FREE = auto()


@dataclass(eq=False, slots=True)
class Buffer:
    """`size_bytes` at `offset` of the pool. `generation` differs for every allocation."""

    offset: int
    size_bytes: int
    generation: int
    view: memoryview
    state: BufferState = BufferState.IN_USE


@dataclass(frozen=True, slots=True)
class PoolUsage:
    """Bytes by state."""

    total_bytes: int
    in_use_bytes: int
    quarantined_bytes: int


def _sealed_file(size_bytes: int) -> int:
    descriptor = os.memfd_create("objectcache-buffers", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size_bytes)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
    return descriptor


class BufferPool:
    """First fit over one mapping. Thread-safe."""

    def __init__(self, size_bytes: int, *, prefault: bool = False, shared: bool = True) -> None:
        """`prefault`: take all memory at once, so that no first use has to wait for it. Raises MemoryError then.

        `shared` False: no file, and so no other process that could map it. In large pages where the kernel gives some.
        """
        self.prefaulted = prefault
        self._size = align_up(max(size_bytes, 1))
        self._fd = _sealed_file(self._size) if shared else None
        self._map = private_memory(self._size) if self._fd is None else shared_memory(self._fd, self._size)
        self._view = memoryview(self._map)
        self._lock = threading.Lock()
        self._free: list[tuple[int, int]] = [(0, self._size)]  # (offset, size), ascending, never adjacent
        self._held: set[Buffer] = set()
        self._generation = 0
        self._closed = False
        self._unregister: list[Callable[[], None]] = []
        if prefault:
            try:
                populate(self._view)
            except MemoryError:
                self.close()
                raise

    def register(self, registrar: Callable[[int, int], Callable[[], None]]) -> None:
        """Have the whole pool registered, with CUDA or a network card: `registrar(address, size_bytes)` does it, and
        returns what undoes it, which `close` calls. All pages may be taken at once. Raises what the registrar raises.
        """
        with self._lock:
            if self._closed:
                raise ObjectCacheError("the cache is closed")
            self._unregister.append(registrar(address_of(self._view), self._size))

    def fileno(self) -> int:
        """The shared file, for handing to a process that writes it too. Raises ObjectCacheError where there is none."""
        if self._fd is None:
            raise ObjectCacheError("the pool is not shared")
        return self._fd

    @property
    def size_bytes(self) -> int:
        return self._size

    @property
    def memory(self) -> memoryview:
        """All of it. Whoever holds a slice of this keeps it mapped past `close`."""
        return self._view[:]

    @property
    def address(self) -> int:
        """Where it is mapped in this process."""
        return address_of(self._view)

    def allocate(self, size_bytes: int) -> Buffer:
        """A buffer of at least `size_bytes`, page-aligned. Raises BufferPoolExhaustedError."""
        needed = align_up(max(size_bytes, 1))
        with self._lock:
            if self._closed:
                raise ObjectCacheError("the cache is closed")
            for index, (offset, size) in enumerate(self._free):
                if size >= needed:
                    if size == needed:
                        del self._free[index]
                    else:
                        self._free[index] = (offset + needed, size - needed)
                    self._generation += 1
                    view = self._view[offset : offset + size_bytes]
                    buffer = Buffer(offset, needed, self._generation, view)
                    self._held.add(buffer)
                    return buffer
            usage = self._usage()
        raise BufferPoolExhaustedError(
            f"{size_bytes} bytes asked for; of the pool's {usage.total_bytes} bytes {usage.in_use_bytes} are in use "
            f"and {usage.quarantined_bytes} in quarantine: raise buffer_bytes, or close retrievals sooner"
        )

    def shrink(self, buffer: Buffer, size_bytes: int) -> None:
        """Give back what is behind its first `size_bytes`, at least one: nothing has written there, or ever will."""
        needed = align_up(size_bytes)
        with self._lock:
            spare = buffer.size_bytes - needed
            if spare > 0 and not self._closed:
                self._insert(buffer.offset + needed, spare)
                buffer.size_bytes = needed
            buffer.view = buffer.view[:size_bytes]

    def quarantine(self, buffer: Buffer) -> None:
        """Nobody reads it any more, but something may still write it."""
        with self._lock:
            if buffer.state is BufferState.IN_USE:
                buffer.state = BufferState.QUARANTINED

    def release(self, buffer: Buffer) -> None:
        """Free it. The caller knows that nothing reads or writes it any more. Raises on a second release."""
        with self._lock:
            if buffer.state is BufferState.FREE:
                raise ObjectCacheError(f"buffer {buffer.generation} was released twice")
            buffer.state = BufferState.FREE
            self._held.discard(buffer)
            self._insert(buffer.offset, buffer.size_bytes)

    def _insert(self, offset: int, size: int) -> None:
        index = next((i for i, (at, _) in enumerate(self._free) if at > offset), len(self._free))
        if index < len(self._free) and offset + size == self._free[index][0]:
            size += self._free.pop(index)[1]
        if index and sum(self._free[index - 1]) == offset:
            before = self._free.pop(index - 1)
            index, offset, size = index - 1, before[0], before[1] + size
        self._free.insert(index, (offset, size))

    def _usage(self) -> PoolUsage:
        in_use_bytes = quarantined_bytes = 0
        for buffer in self._held:
            if buffer.state is BufferState.IN_USE:
                in_use_bytes += buffer.size_bytes
            elif buffer.state is BufferState.QUARANTINED:
                quarantined_bytes += buffer.size_bytes
        return PoolUsage(self._size, in_use_bytes, quarantined_bytes)

    def usage(self) -> PoolUsage:
        with self._lock:
            return self._usage()

    def close(self) -> None:
        """Give the memory back. Views that users still hold keep their pages until they go."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            undo, self._unregister = self._unregister, []
        for unregister in undo:
            unregister()
        if self._fd is not None:
            os.close(self._fd)
        try:
            self._view.release()
            self._map.close()
        except BufferError:  # somebody still holds a view; the mapping goes with the last one
            pass
