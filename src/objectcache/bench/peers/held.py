"""The KV that everybody holds, in memory into which everybody reads it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType

import numpy as np
import xxhash

from objectcache.bench.errors import BenchmarkError
from objectcache.bench.retrieve.workload import StoredPrefix
from objectcache.buffers import BufferPool


class HeldKV(AbstractContextManager["HeldKV"]):
    """`chunks` × `layers` × `slice_bytes`, chunk by chunk, in a pool of the kind that our own client reads into.

    Other processes map it, by `fileno()`. Once its digests are known it is the destination of all peers, in turn.
    """

    def __init__(self, chunks: int, layers: int, slice_bytes: int) -> None:
        self.chunks, self.layers, self.slice_bytes = chunks, layers, slice_bytes
        self.chunk_bytes = layers * slice_bytes
        self.size_bytes = chunks * self.chunk_bytes
        self._pool = BufferPool(self.size_bytes)
        self.memory = self._pool.allocate(self.size_bytes).view
        self._array = np.frombuffer(self.memory, np.uint8)
        self._whole = b""
        self._by_layer: dict[int, bytes] = {}

    def fileno(self) -> int:
        return self._pool.fileno()

    def fill(self, prefix: StoredPrefix, sampled: Sequence[int]) -> None:
        """With what is stored; digests of all of it, and of the `sampled` layers."""
        chunks = self._array.reshape(self.chunks, self.layers, self.slice_bytes)
        for header, slices in zip(prefix.headers, prefix.layers(), strict=True):
            for layer, stored in enumerate(slices):
                chunks[header.depth : header.depth + header.num_chunks, layer] = stored
        self._whole = xxhash.xxh3_128_digest(self.memory)
        for layer in sampled:
            self._by_layer[layer] = xxhash.xxh3_128_digest(np.ascontiguousarray(chunks[:, layer]).data)

    def clear(self) -> None:
        self._array[:] = 0

    def check_chunks(self) -> None:
        """Raises BenchmarkError unless all chunks are in the memory, in their order."""
        if xxhash.xxh3_128_digest(self.memory) != self._whole:
            raise BenchmarkError("what arrived is not what was stored")

    def check_layers(self) -> None:
        """Raises BenchmarkError unless the sampled layers are at the memory's begin, one after the other."""
        size = self.chunks * self.slice_bytes
        for place, (layer, stored) in enumerate(self._by_layer.items()):
            if xxhash.xxh3_128_digest(self.memory[place * size : (place + 1) * size]) != stored:
                raise BenchmarkError(f"what arrived of layer {layer} is not what was stored")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._array
        self.memory.release()
        self._pool.close()
