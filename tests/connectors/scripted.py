"""A KVCache that delivers and stores as a test says."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from objectcache.cache.base import KVCache, Match, PartId, RetrieveOptions, SegmentUpload, UploadTicket
from objectcache.cache.retrieval import Retrieval
from objectcache.errors import ObjectCacheError
from objectcache.integrity import Buffer
from objectcache.keys import KeyChain, Namespace


class ScriptedUpload(SegmentUpload):
    def __init__(self, inner: SegmentUpload, script: ScriptedCache) -> None:
        self.header = inner.header
        self._inner = inner
        self._script = script

    def write_layer(self, data: Buffer) -> None:
        self._script.before_write()
        self._inner.write_layer(data)

    def finish(self) -> UploadTicket:
        return self._inner.finish()

    def abort(self) -> None:
        self._script.aborted += 1
        self._inner.abort()


@dataclass
class ScriptedCache(KVCache):
    """`inner`, with faults.

    Each unit lands when `step` is released once more; layers from `fail_at` on fail with `failure`.
    """

    inner: KVCache
    fail_at: int | None = None
    failure: ObjectCacheError = field(default_factory=lambda: ObjectCacheError("scripted"))
    step: threading.Semaphore | None = None
    match_error: ObjectCacheError | None = None
    store_error: ObjectCacheError | None = None
    before_write: Callable[[], object] = lambda: None
    closed: list[bool] = field(default_factory=list)
    released: int = 0
    stores: list[tuple[int, int | None]] = field(default_factory=list)
    aborted: int = 0

    def match(self, namespace: Namespace, chain: KeyChain, *, parts: Sequence[PartId] | None = None) -> Match:
        if self.match_error is not None:
            raise self.match_error
        return self.inner.match(namespace, chain, parts=parts)

    def retrieve(
        self, match: Match, *, parts: Sequence[PartId] | None = None, options: RetrieveOptions | None = None
    ) -> Retrieval:
        inner = self.inner.retrieve(match, parts=parts, options=options)
        list(inner)
        deadline_s = time.perf_counter() + (options or RetrieveOptions()).deadline_s

        def closed(complete: bool) -> None:
            self.closed.append(complete)
            inner.close()

        outer = Retrieval(inner.geometry, inner.memory, deadline_s=deadline_s, on_close=closed)
        threading.Thread(target=self._deliver, args=(outer,), daemon=True).start()
        return outer

    def _deliver(self, retrieval: Retrieval) -> None:
        for unit, layers in enumerate(retrieval.geometry.units):
            if self.step is not None:
                self.step.acquire()
            if self.fail_at is not None and self.fail_at <= layers[-1]:
                retrieval.fail(self.failure)
                return
            retrieval.land(unit)

    def store(
        self, namespace: Namespace, chain: KeyChain, part: PartId, *, first: int = 0, stop: int | None = None
    ) -> SegmentUpload | None:
        self.stores.append((first, stop))
        if self.store_error is not None:
            raise self.store_error
        inner = self.inner.store(namespace, chain, part, first=first, stop=stop)
        return None if inner is None else ScriptedUpload(inner, self)

    def commit(self, tickets: Sequence[UploadTicket], *, discard: Sequence[UploadTicket] = ()) -> None:
        self.inner.commit(tickets, discard=discard)

    def release(self, match: Match) -> None:
        self.released += 1
        self.inner.release(match)

    def close(self) -> None:
        self.inner.close()
