"""Retrievals through a cache, gateway or direct, timed; and that nothing stays."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from objectcache.bench.errors import BenchmarkError
from objectcache.bench.retrieve.workload import StoredPrefix
from objectcache.bench.stores.fetch import Fetch
from objectcache.cache.base import KVCache, RetrieveOptions
from objectcache.cache.retrieval import Retrieval
from objectcache.stores import delete_all, open_store

_DEADLINE_S = 120.0


def retrieve(
    cache: KVCache,
    prefix: StoredPrefix,
    requests: Callable[[], int] | None = None,
    arrived: Callable[[Retrieval], None] = lambda retrieval: None,
) -> Fetch:
    """All of `prefix`, layer by layer. `requests()` counts those to the store so far; `arrived(retrieval)`, untimed, is
    last. Raises ObjectCacheError, when not all of it matches too."""
    match = cache.match(prefix.namespace, prefix.chain)
    if match.payload_bytes < prefix.payload_bytes:
        raise BenchmarkError(f"{match.payload_bytes} of {prefix.payload_bytes} stored bytes match")
    before = requests() if requests else 0
    start_s = time.perf_counter()
    with cache.retrieve(match, options=RetrieveOptions(layers_per_unit=1, deadline_s=_DEADLINE_S)) as retrieval:
        landed_s = [unit.landed_s - start_s for unit in retrieval]
        fetch = Fetch(
            started_s=start_s,
            total_s=max(landed_s),
            first_layer_s=landed_s[0],
            payload_bytes=match.payload_bytes,
            requests=requests() - before if requests else None,
        )
        arrived(retrieval)
    cache.release(match)
    return fetch


@contextmanager
def deleted(url: str) -> Iterator[None]:
    """At the end, all objects of the store at `url` go."""
    store = open_store(url)
    try:
        yield
    finally:
        try:
            failed = delete_all(store, [info.name for info in store.list()])
        finally:
            store.close()
        if failed:
            raise next(iter(failed.values()))
