"""Synthetic catalogs: chains of random keys, cut into segments, as log records. No KV, and no tokens behind the keys.

Everything follows from the seed and a chain's number, so that a catalog built before can be asked for its chains.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from objectcache.bench.retrieve.workload import PART, bench_namespace
from objectcache.bench.shapes import LLAMA_31_8B, ModelShape
from objectcache.keys import KEY_BYTES, KeyChain, Namespace
from objectcache.layout import DIGEST_BYTES
from objectcache.logrecord import CommitEntry, LogRecord
from objectcache.names import segment_name
from objectcache.segment import SegmentHeader

WRITER = "bench"


@dataclass(frozen=True)
class CatalogWorkload:
    """`num_chains` chains of `chain_chunks` chunks. Chain c is in segments of `segment_sizes[c % …]` chunks, a log
    record each.
    """

    num_chains: int
    chain_chunks: int
    segment_sizes: tuple[int, ...]
    shape: ModelShape = LLAMA_31_8B
    seed: int = field(default=1, repr=False)

    @cached_property
    def namespace(self) -> Namespace:
        return bench_namespace(self.shape, self.seed)

    @property
    def num_chunks(self) -> int:
        return self.num_chains * self.chain_chunks

    @cached_property
    def num_segments(self) -> int:
        return self.sequence(self.num_chains) - 1

    def sequence(self, number: int) -> int:
        """Of the first record (and segment) of chain `number`."""
        whole, rest = divmod(number, len(self.segment_sizes))
        each = [-(-self.chain_chunks // size) for size in self.segment_sizes]
        return 1 + whole * sum(each) + sum(each[:rest])

    def segment_size(self, number: int) -> int:
        return self.segment_sizes[number % len(self.segment_sizes)]

    def chain(self, number: int) -> KeyChain:
        """The keys of chain `number`; numbers from `num_chains` on are of chains that are not stored."""
        return KeyChain(np.random.default_rng([self.seed, number]).bytes(self.chain_chunks * KEY_BYTES))

    def chains_in(self, segment_chunks: int, count: int) -> list[int]:
        """Up to `count` stored chains in segments of that many chunks, spread over all of them."""
        numbers = [number for number in range(self.num_chains) if self.segment_size(number) == segment_chunks]
        step = max(1, len(numbers) // count)
        return numbers[::step][:count]

    def entries(self, number: int) -> Iterator[CommitEntry]:
        """The segments of chain `number`."""
        chain, size = self.chain(number), self.segment_size(number)
        layout, digest = self.namespace.layout, self.namespace.digest
        rows_bytes = DIGEST_BYTES * len(layout.shard(PART.group, PART.shard).layers)
        random = np.random.default_rng([self.seed, number, 1])
        for index, first in enumerate(range(0, len(chain), size)):
            header = SegmentHeader.for_layout(
                layout,
                name=segment_name(WRITER, self.sequence(number) + index),
                namespace=digest,
                group=PART.group,
                shard=PART.shard,
                chain=chain,
                first=first,
                stop=min(len(chain), first + size),
            )
            rows = random.bytes(rows_bytes)
            yield CommitEntry(header, tuple(rows[at : at + DIGEST_BYTES] for at in range(0, rows_bytes, DIGEST_BYTES)))

    def records(self, first: int = 0, stop: int | None = None) -> Iterator[LogRecord]:
        """Of chains [first, stop) (None: of all that are stored)."""
        for number in range(first, self.num_chains if stop is None else stop):
            for sequence, entry in enumerate(self.entries(number), self.sequence(number)):
                yield LogRecord(WRITER, sequence, 0.0, (entry,))

    def to_dict(self) -> dict[str, Any]:
        """What tells it from others; JSON."""
        return {
            "num_chains": self.num_chains,
            "chain_chunks": self.chain_chunks,
            "segment_sizes": list(self.segment_sizes),
            "namespace": self.namespace.digest.hex(),
        }
