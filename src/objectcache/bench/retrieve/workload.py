"""Synthetic KV: prefixes stored through the gateway, and what of them must arrive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from objectcache.bench.errors import BenchmarkError
from objectcache.bench.shapes import ModelShape
from objectcache.cache.base import KVCache, PartId
from objectcache.cache.retrieval import Retrieval
from objectcache.keys import KeyChain, Namespace, chain_keys
from objectcache.segment import SegmentHeader

PART = PartId(0, 0)
_VOCABULARY = 1 << 17


def bench_namespace(shape: ModelShape, seed: int) -> Namespace:
    return Namespace(model=f"bench-{shape.name}", layout=shape.layout, kv_dtype="bfloat16", hash_seed=str(seed))


def random_chain(namespace: Namespace, chunks: int, seed: int) -> KeyChain:
    """The keys of a prompt of random tokens."""
    tokens = np.random.default_rng(seed).integers(_VOCABULARY, size=chunks * namespace.layout.key_tokens)
    return chain_keys(namespace, tokens)


@dataclass(frozen=True)
class StoredPrefix:
    """A chain that is stored whole, in segments whose `headers` are in its order."""

    namespace: Namespace
    chain: KeyChain
    headers: tuple[SegmentHeader, ...]
    seed: int

    @property
    def payload_bytes(self) -> int:
        return sum(map(payload_bytes, self.headers))

    def layers(self) -> Iterator[list[npt.NDArray[np.uint8]]]:
        """What is stored, segment by segment: of each layer (chunks, slice bytes)."""
        for index, header in enumerate(self.headers):
            yield [_slices(self.seed, index, position, header) for position in range(len(header.layers))]

    def check(self, retrieval: Retrieval) -> None:
        """Raises BenchmarkError unless what has landed is what was stored."""
        chunks = retrieval.geometry.parts[0].num_chunks
        for index, header in enumerate(self.headers):
            if header.depth >= chunks:
                break
            for position, layer in enumerate(header.layers):
                arrived = retrieval.view(layer)[header.depth : header.depth + header.num_chunks]
                stored = _slices(self.seed, index, position, header)[: len(arrived)]
                if not np.array_equal(arrived, stored):
                    raise BenchmarkError(f"what arrived of layer {layer}, segment {index}, is not what was stored")


def payload_bytes(header: SegmentHeader) -> int:
    """Of a segment's slices, without headers and digests."""
    return header.num_chunks * sum(header.slice_bytes)


def store_prefix(
    cache: KVCache, namespace: Namespace, chain: KeyChain, segment_chunks: int, seed: int, stored: Callable[[], None]
) -> StoredPrefix:
    """Store all of `chain` in segments of `segment_chunks` chunks; `stored()` after each. Raises ObjectCacheError."""
    headers = []
    for index, first in enumerate(range(0, len(chain), segment_chunks)):
        stop = min(len(chain), first + segment_chunks)
        upload = cache.store(namespace, chain, PART, first=first, stop=stop)
        if upload is None:
            raise BenchmarkError("chunks of a fresh store are said to be there already")
        with upload:
            for position in range(len(upload.header.layers)):
                upload.write_layer(_slices(seed, index, position, upload.header).data)
            cache.commit([upload.finish()])
        headers.append(upload.header)
        stored()
    return StoredPrefix(namespace, chain, tuple(headers), seed)


def _slices(seed: int, segment: int, position: int, header: SegmentHeader) -> npt.NDArray[np.uint8]:
    """(chunks, slice bytes) of one layer, the same whenever asked for."""
    shape = (header.num_chunks, header.slice_bytes[position])
    words = np.random.default_rng([seed, segment, position]).bytes(shape[0] * shape[1])
    return np.frombuffer(words, dtype=np.uint8).reshape(shape)
