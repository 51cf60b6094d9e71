"""A catalog in a process of its own, so that its memory and its first moments can be told from everything else.

`python -m objectcache.bench.catalog.process` answers each JSON line {"do": …} with one; see `_JOBS`. It ends when
standard input does. Seconds are of the work alone: everything is imported before.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb

from objectcache.bench.catalog.workload import CatalogWorkload
from objectcache.bench.machine import anonymous_bytes, mapped_file_bytes
from objectcache.bench.retrieve.workload import PART
from objectcache.cache.core import CacheCore
from objectcache.catalog import Catalog, Follower, match
from objectcache.catalog.environment import CHUNKS, SEGMENTS
from objectcache.catalog.records import PLACE_BYTES, pack_id, part_key, unpack_place
from objectcache.stores import FileStore

_SAMPLED_EVERY_S = 0.02

Answer = dict[str, Any]


def _rebuild(job: dict[str, Any]) -> Answer:
    """Follow the logs in `store`, or begin with its snapshot, into a catalog at `catalog` that is not there yet."""
    with FileStore(Path(job["store"])) as store, Catalog.open(job["catalog"]) as catalog, _memory() as memory:
        start_s = time.perf_counter()
        Follower(store, catalog).poll()
        seconds = time.perf_counter() - start_s
        stats = catalog.stats()
    return {"seconds": seconds, "chunks": stats.chunks, "segments": stats.segments, **memory}


def _snapshot(job: dict[str, Any]) -> Answer:
    """Write one of all that the catalog has."""
    with FileStore(Path(job["store"])) as store, Catalog.open(job["catalog"]) as catalog, _memory() as memory:
        start_s = time.perf_counter()
        name = Follower(store, catalog).snapshot().name
        seconds = time.perf_counter() - start_s
        size_bytes = store.head(name).size_bytes
    return {"seconds": seconds, "bytes": size_bytes, **memory}


def _open(job: dict[str, Any]) -> Answer:
    start_s = time.perf_counter()
    catalog = Catalog.open(job["catalog"])
    chunks = catalog.stats().chunks
    seconds = time.perf_counter() - start_s
    catalog.close()
    return {"seconds": seconds, "chunks": chunks}


def _open_cache(job: dict[str, Any]) -> Answer:
    """The whole core, with a look at the logs."""
    with FileStore(Path(job["store"])) as store:
        start_s = time.perf_counter()
        core = CacheCore.open(store, Path(job["catalog"]))
        seconds = time.perf_counter() - start_s
        core.close()
    return {"seconds": seconds}


def _match(job: dict[str, Any]) -> Answer:
    """Match the chains numbered `numbers`, each once, in a catalog opened for it."""
    workload = _workload(job)
    chains = [workload.chain(number) for number in job["numbers"]]
    with Catalog.open(job["catalog"]) as catalog:
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
        seconds = []
        for chain in chains:
            start_s = time.perf_counter()
            found = match(catalog, workload.namespace, chain, [PART])
            seconds.append(time.perf_counter() - start_s)
            assert found.tokens == len(chain) * workload.shape.chunk_tokens
        return {
            "seconds": seconds,
            "major_faults": resource.getrusage(resource.RUSAGE_SELF).ru_majflt - faults,
            "anonymous_bytes": anonymous_bytes(os.getpid()),
            "mapped_bytes": mapped_file_bytes(os.getpid()),
        }


def _evict(job: dict[str, Any]) -> Answer:
    """To the first candidate."""
    with Catalog.open(job["catalog"]) as catalog, _memory() as memory:
        start_s = time.perf_counter()
        next(catalog.eviction_order())
        seconds = time.perf_counter() - start_s
    return {"seconds": seconds, **memory}


class _BareGets:
    """The two look-ups a segment that a match cannot do without, and nothing else: a cursor each, in one loop."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._workload = _workload(job)
        self._environment = lmdb.open(job["catalog"], readonly=True, max_dbs=16, readahead=False)
        self._chunks = self._environment.open_db(CHUNKS, create=False)
        self._segments = self._environment.open_db(SEGMENTS, create=False)
        self._part = part_key(*PART)

    def run(self, job: dict[str, Any]) -> Answer:
        """Seconds for the first `length` chunks of each of the chains numbered `numbers`."""
        seconds = []
        for number in job["numbers"]:
            chain = self._workload.chain(number)[: job["length"]]
            keys = list(chain)[:: self._workload.segment_size(number)]
            start_s = time.perf_counter()
            with self._environment.begin() as transaction:
                chunks, segments = transaction.cursor(self._chunks), transaction.cursor(self._segments)
                for key in keys:
                    chunks.set_range_dup(self._part, key)
                    id, _ = unpack_place(chunks.value()[-PLACE_BYTES:])
                    segments.set_key(pack_id(id))
                    segments.value()
            seconds.append(time.perf_counter() - start_s)
        return {"seconds": seconds}


def _workload(job: dict[str, Any]) -> CatalogWorkload:
    return CatalogWorkload(job["num_chains"], job["chain_chunks"], tuple(job["segment_sizes"]))


@contextmanager
def _memory() -> Iterator[dict[str, int]]:
    """`peak_anonymous_bytes` of this process meanwhile, filled in at the end; sampled."""
    found = {"peak_anonymous_bytes": anonymous_bytes(os.getpid())}
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(_SAMPLED_EVERY_S):
            found["peak_anonymous_bytes"] = max(found["peak_anonymous_bytes"], anonymous_bytes(os.getpid()))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


_JOBS: dict[str, Callable[[dict[str, Any]], Answer]] = {
    "rebuild": _rebuild,
    "snapshot": _snapshot,
    "open": _open,
    "open cache": _open_cache,
    "match": _match,
    "evict": _evict,
}


def main() -> None:
    jobs = dict(_JOBS)
    for line in sys.stdin:
        job = json.loads(line)
        if job["do"] == "prepare bare gets":
            jobs["bare gets"] = _BareGets(job).run
            answer: Answer = {}
        else:
            answer = jobs[job["do"]](job)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
