"""Storing beside the engine: what is admitted is staged in bounded memory and written meanwhile; or dropped."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from types import TracebackType

from objectcache.cache.base import KVCache, PartId, UploadTicket, group_chain
from objectcache.errors import ConfigError, LayoutError, ObjectCacheError
from objectcache.keys import KeyChain, Namespace
from objectcache.layout import MatchRule
from objectcache.storing.admission import Admission, AdmissionOptions, Offer
from objectcache.storing.handle import StoreHandle, as_cache_error
from objectcache.storing.in_flight import Claim, InFlight
from objectcache.storing.lanes import Lane, Lanes
from objectcache.storing.process_writer import ProcessWriter
from objectcache.storing.reasons import Reason
from objectcache.storing.staging import Staging
from objectcache.storing.stats import StoreCounter, StoreStats
from objectcache.storing.together import Together
from objectcache.storing.writer import ThreadWriter, Wanted, Writer

STORING_THREADS = 2
END_S = 2.0
CHECK_S = 0.1


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How to store.

    `staging_bytes` bounds the host memory of layers on their way; it is taken as it is written. `writer` is "process"
    (digests and uploads in a process of its own), "threads", or "auto": a process where the cache can be written from
    one. `segment_chunks` bounds the chunks of one stored segment. `finish_s` after `finish` a store that is not visible
    is dropped; if it then does not end within `unstick_s`, the storing process is replaced. Raises ConfigError.
    """

    admission: AdmissionOptions = field(default_factory=AdmissionOptions)
    staging_bytes: int = 1 << 30
    writer: str = "auto"
    segment_chunks: int = 256
    finish_s: float = 60.0
    unstick_s: float = 15.0

    def __post_init__(self) -> None:
        if self.writer not in ("auto", "process", "threads"):
            raise ConfigError(f"writer must be 'auto', 'process' or 'threads', got {self.writer!r}")
        if self.staging_bytes < 1 or self.segment_chunks < 1:
            raise ConfigError("staging_bytes and segment_chunks must be positive")


@dataclass(frozen=True, slots=True)
class _Claimed:
    """Chunks from `first` on."""

    claim: Claim
    first: int


class StoreQueue(AbstractContextManager["StoreQueue"]):
    """Stores what an engine computes in `cache`, which stays the caller's to close, after this.

    `begin` and everything of its handles return at once and never raise what storing runs into. Thread-safe.
    """

    def __init__(self, cache: KVCache, options: StoreOptions | None = None) -> None:
        """Raises ConfigError for a process that the cache cannot be written from."""
        self.options = options or StoreOptions()
        self._cache = cache
        if self.options.writer == "process" and not cache.stores_elsewhere:
            raise ConfigError("this cache can only be written by its own process: writer must be 'threads' or 'auto'")
        self.staging = Staging(self.options.staging_bytes)
        self.writer: Writer = (
            ProcessWriter(cache, self.staging.pool)
            if cache.stores_elsewhere and self.options.writer != "threads"
            else ThreadWriter(cache)
        )
        self.staging.reap = self.writer.reap
        self._lanes = Lanes(STORING_THREADS, "objectcache-store")
        self._counter = StoreCounter()
        self._admission = Admission(self.options.admission)
        self._in_flight = InFlight()
        self._numbers = itertools.count()
        self._lock = threading.Lock()  # admission, what is in flight
        self._changed = threading.Condition(threading.Lock())
        self._handles: set[StoreHandle] = set()
        self._closing = threading.Event()
        threading.Thread(target=self._check, name="objectcache-store-check", daemon=True).start()

    # -- for the engine ---------------------------------------------------------------------------

    def begin(
        self,
        namespace: Namespace,
        chain: KeyChain,
        part: PartId,
        *,
        first: int = 0,
        stop: int | None = None,
        ended: bool = True,
        on_copied: Callable[[int], None] | None = None,
        on_settled: Callable[[StoreHandle], None] | None = None,
        on_declined: Callable[[Reason], None] | None = None,
    ) -> StoreHandle | None:
        """Begin to store chunks [first, stop) of `part`, counted in its group's chunks.

        None when they are not to be stored: `on_declined` is told why, and `stats` count it. Otherwise the chunks that
        the handle takes are [handle.first, handle.stop), which may be fewer; of those, what turns out to be stored
        already is not stored again. `chain` is the keys of the prompt from its start, `ended` says that no more chunks
        of this request will follow. `on_copied(layer)` is called in a storing thread once for each layer that was
        taken, when its source is not read any more; `on_settled(handle)` once, when it is visible or dropped. Neither
        may block. Raises LayoutError for chunks that the chain does not have.
        """
        keys = group_chain(namespace, chain, part.group)
        stop = len(keys) if stop is None else stop
        shard = namespace.layout.shard(part.group, part.shard)
        if not 0 <= first <= stop <= len(keys):
            raise LayoutError(f"chunks [{first}, {stop}) are not in a chain of {len(keys)}")
        chunk_bytes = sum(shard.slice_bytes)
        self._counter.offered((stop - first) * chunk_bytes)
        offer = Offer(part, keys, first, stop, namespace.layout.group(part.group).chunk_tokens, ended)
        found = self._claim(namespace, offer)
        if isinstance(found, Reason):
            self._counter.dropped(found, (stop - first) * chunk_bytes)
            if on_declined is not None:
                on_declined(found)
            return None
        begin, end = found.first, found.first + len(found.claim.keys)
        for reason, chunks in ((Reason.FIRST_SIGHT, stop - end), (Reason.IN_FLIGHT, begin - first)):
            if chunks:
                self._counter.part_dropped(reason, chunks * chunk_bytes)
        wanted = Wanted(namespace, chain, part, begin, begin, end, self.options.segment_chunks)
        handle = StoreHandle(self, next(self._numbers), wanted, found.claim, on_copied, on_settled)
        with self._changed:
            self._handles.add(handle)
        handle.start()
        return handle

    def finish(self, handles: Sequence[StoreHandle]) -> None:
        """The step that computed them was clean: make all of them visible in one commit, or none.

        Those that turn out to be stored already do not hold the others up.
        """
        open_ones = [handle for handle in handles if handle.finishes]
        together = Together(
            open_ones,
            commit=lambda whole: self.submit(Lane(), partial(self._commit, whole)),
            discard=self.discard,
        )
        for handle in open_ones:
            handle.finish_with(together)

    @property
    def stats(self) -> StoreStats:
        self.writer.reap()
        return self._counter.snapshot(
            staging_bytes=self.staging.pool.size_bytes,
            staged_bytes=self.staging.used_bytes,
            staged_peak_bytes=self.staging.peak_bytes,
            processes=self.writer.processes,
        )

    def flush(self, timeout_s: float = 60.0) -> bool:
        """Whether everything that was begun is visible or dropped, and gone from memory, within `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._handles, timeout_s)

    def close(self, timeout_s: float = 30.0) -> None:
        """Take no more, and wait for what was finished, for at most `timeout_s` and a few seconds; drop the rest."""
        with self._changed:
            if self._closing.is_set():
                return
            self._closing.set()
            handles = list(self._handles)
        for handle in handles:
            handle.drop_unfinished(Reason.CLOSED)
        self.flush(timeout_s)
        with self._changed:
            handles = list(self._handles)
        for handle in handles:
            handle.drop(Reason.CLOSED)
        if handles:
            self.flush(END_S)
        self.writer.close(END_S)
        self._lanes.close(END_S)
        self.staging.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- deciding ---------------------------------------------------------------------------------

    def _claim(self, namespace: Namespace, offer: Offer) -> _Claimed | Reason:
        with self._lock:
            if self._closing.is_set():
                return Reason.CLOSED
            if offer.first >= offer.stop:
                return Reason.COVERED
            stop = self._admission.admit(offer)
            if isinstance(stop, Reason):
                return stop
            claim = self._in_flight.claim(namespace.digest, offer.part, offer.keys[offer.first : stop])
        return Reason.IN_FLIGHT if claim is None else _Claimed(claim, stop - len(claim.keys))

    def uncovered(self, wanted: Wanted) -> int:
        """The first of its chunks that is not stored. Raises ObjectCacheError."""
        if wanted.namespace.layout.group(wanted.part.group).rule is not MatchRule.PREFIX:
            return wanted.first
        match = self._cache.match(wanted.namespace, wanted.chain, parts=[wanted.part])
        with suppress(ObjectCacheError):  # it expires by itself
            self._cache.release(match)
        stored = match.parts[0].stop if match.parts else 0
        return min(max(stored, wanted.first), wanted.stop)

    def trimmed(self, wanted: Wanted, first: int) -> Wanted:
        """Without the chunks before `first`, which are stored."""
        shard = wanted.namespace.layout.shard(wanted.part.group, wanted.part.shard)
        if first < wanted.stop:  # otherwise all of it is dropped, and counted there
            self._counter.part_dropped(Reason.COVERED, (first - wanted.first) * sum(shard.slice_bytes))
            return replace(wanted, first=first)
        return wanted

    # -- for handles ------------------------------------------------------------------------------

    def submit(self, lane: Lane, job: Callable[[], None]) -> None:
        self._lanes.submit(lane, job)

    def settled(self, handle: StoreHandle, claim: Claim) -> None:
        """It is visible, or dropped: others may begin the same chunks."""
        with self._lock:
            self._in_flight.release(claim)
        if handle.reason is None:
            self._counter.stored(handle.payload_bytes, handle.segments)
        else:
            self._counter.dropped(handle.reason, handle.payload_bytes)

    def forget(self, handle: StoreHandle) -> None:
        """It is visible or dropped, and nothing of it is left."""
        with self._changed:
            self._handles.discard(handle)
            self._changed.notify_all()

    def discard(self, tickets: Sequence[UploadTicket]) -> None:
        """Uploads that are whole and not wanted any more."""
        self.submit(Lane(), partial(self._discard, tickets))

    def _discard(self, tickets: Sequence[UploadTicket]) -> None:
        with suppress(Exception):  # what cannot be dropped now was never visible, and expires
            self._cache.commit([], discard=tickets)

    def _commit(self, together: Together) -> None:
        tickets = together.tickets
        try:
            self._cache.commit(tickets)
        except Exception as error:  # noqa: BLE001 - nothing that storing does may reach the engine
            together.failed(as_cache_error(error))
            self._discard(tickets)
        else:
            together.committed()

    def _check(self) -> None:
        """Drop what is late; where that does not end it, unstick the writer."""
        while not self._closing.wait(CHECK_S):
            self.writer.reap()  # where the engine waits for `on_copied`, and gives no more layers
            with self._changed:
                handles = list(self._handles)
            now_s = time.monotonic()
            stuck = [handle for handle in handles if handle.check(now_s)]
            if stuck:
                self.writer.unstick()
