"""A conversation that is merged while it goes on: what that costs, and how fragmented it is meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from objectcache.bench.errors import BenchmarkError
from objectcache.bench.merge.settings import MergeSettings
from objectcache.bench.retrieve.workload import PART, bench_namespace, random_chain
from objectcache.cache.local import LocalCache
from objectcache.cache.merging.merger import Merger


@dataclass(frozen=True, slots=True)
class Live:
    """`ranges` are those of the whole prefix at each turn; `merge_s` of all merges together."""

    ranges: tuple[int, ...]
    stored_bytes: int
    rewritten_bytes: int
    merges: int
    merge_s: float


def converse(cache: LocalCache, settings: MergeSettings, seed: int, said: Callable[[], None]) -> Live:
    """Turn by turn: match what is there, store what is new, merge what is due. `said()` after each turn."""
    namespace = bench_namespace(settings.shape, seed)
    chain = random_chain(namespace, settings.chunks, seed)
    merger, ranges, merge_s, stored_bytes = Merger(cache.core), [], 0.0, 0
    layer = bytes(settings.turn_chunks * settings.shape.layout.shard(0, 0).slice_bytes[0])
    for first in range(0, settings.chunks, settings.turn_chunks):
        stop = first + settings.turn_chunks
        if first:
            match = cache.match(namespace, chain[:first])
            cache.release(match)
        upload = cache.store(namespace, chain, PART, first=first, stop=stop)
        if upload is None:
            raise BenchmarkError("chunks of a fresh store are said to be there already")
        with upload:
            for _ in upload.header.layers:
                upload.write_layer(layer)
            cache.commit([upload.finish()])
        stored_bytes += upload.header.total_bytes
        began_s = time.perf_counter()
        for run in merger.find().runs:
            merger.merge(run)
        cache.core.replacing.drop_due()
        merge_s += time.perf_counter() - began_s
        ranges.append(len(cache.core.catalog.match_part(chain[:stop], *PART)))
        said()
    return Live(tuple(ranges), stored_bytes, cache.merges.bytes_rewritten, cache.merges.merged, merge_s)
