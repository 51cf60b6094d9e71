"""Saves: blocks that are final and clean go to the store, from a thread of their own, through a `StoreQueue`."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from functools import partial

from objectcache.cache.base import PartId
from objectcache.connectors.background import BackgroundThread
from objectcache.connectors.vllm.messages import Save, SavePart
from objectcache.connectors.vllm.naming.identity import Identity
from objectcache.connectors.vllm.options import VllmOptions
from objectcache.connectors.vllm.worker.cache_access import CacheAccess
from objectcache.connectors.vllm.worker.chains import KeyMaker
from objectcache.connectors.vllm.worker.counters import WorkerCounter, WorkerStats
from objectcache.connectors.vllm.worker.paged_caches import PagedCaches
from objectcache.device import DeviceSaver, block_table
from objectcache.device.streams import Event
from objectcache.errors import ObjectCacheError
from objectcache.keys import KeyChain, Namespace
from objectcache.storing import Reason, StoreHandle, StoreQueue

MAX_WAITING = 1024
"""Saves that were ordered and not begun: beyond that they are dropped."""
ROOM_S = 1.0
"""For how long a save waits for staging memory before it is dropped."""

log = logging.getLogger(__name__)


class _Job:
    """What is told of one save, each once. Callbacks come from any thread, and may come within each other."""

    def __init__(self, number: int, saving: Saving) -> None:
        self.number = number
        self._saving = saving
        self._lock = threading.RLock()
        self._reading = 1  # while it is being begun, and one for each layer
        self._unsettled = 1
        self._lost = False
        self._abandoned = False
        self._handles: list[StoreHandle] = []

    def reads(self) -> None:
        with self._lock:
            self._reading += 1

    def copied(self) -> None:
        """A layer is not read any more."""
        with self._lock:
            self._reading -= 1
            last = not self._reading
        if last:
            self._saving.say_copied(self.number)

    def begins(self) -> None:
        with self._lock:
            self._unsettled += 1

    def taken(self, handle: StoreHandle) -> None:
        """It stores one part, or is dropped at once."""
        with self._lock:
            self._handles.append(handle)
            abandoned = self._abandoned
        if abandoned:
            handle.drop(Reason.ABANDONED)

    @property
    def abandoned(self) -> bool:
        return self._abandoned

    def abandon(self) -> None:
        """Its blocks may be written from here on: what of them is not copied is not stored."""
        with self._lock:
            if not self._reading:
                return
            self._abandoned = True
            handles = list(self._handles)
        for handle in handles:
            handle.drop(Reason.ABANDONED)

    def settled(self, lost: str = "") -> None:
        """One part is visible, or why it is not."""
        with self._lock:
            self._lost = self._lost or bool(lost)
            self._unsettled -= 1
            stored = not self._unsettled and not self._lost
        if stored:
            self._saving.say_stored(self.number)


class Saving:
    """Of one rank. `on_news` is called when there is something to tell, from any thread."""

    def __init__(
        self,
        options: VllmOptions,
        identity: Identity,
        access: CacheAccess,
        keys: KeyMaker,
        counter: WorkerCounter,
        on_news: Callable[[], None],
    ) -> None:
        self._options = options
        self._identity = identity
        self._access = access
        self._keys = keys
        self._counter = counter
        self._on_news = on_news
        self._parts = {part.group: part for part, writes in zip(identity.parts, identity.writes, strict=True) if writes}
        self._caches: PagedCaches | None = None
        self._saver: DeviceSaver | None = None
        self._queue: StoreQueue | None = None
        self._thread = BackgroundThread()
        self._waiting: deque[None] = deque()
        self._copied: deque[int] = deque()
        self._stored: deque[int] = deque()
        self._open = 0
        self._jobs: dict[int, _Job] = {}  # until they are told of as copied
        self._closing = threading.Event()

    # -- for the engine ---------------------------------------------------------------------------

    def use(self, caches: PagedCaches) -> None:
        """Blocks are of these."""
        self._caches, self._saver = caches, DeviceSaver(caches.device)

    def put(self, save: Save, epoch: int, none_hash: bytes) -> None:
        """Its blocks hold what they are to hold once what the current stream holds by now is done."""
        saver = self._saver
        self._open += 1
        job = self._jobs[save.job] = _Job(save.job, self)
        if not self._parts:  # somebody else does
            job.copied()
            job.settled()
            return
        if saver is None or len(self._waiting) >= MAX_WAITING:
            self._end(job, save, Reason.FAILED.value if saver is None else Reason.BACKLOG.value)
            return
        moment = saver.moment()
        self._waiting.append(None)
        if not self._thread.submit(lambda: self._save(job, save, epoch, none_hash, moment)):
            self._end(job, save, Reason.CLOSED.value)

    def abandon(self, job: int) -> None:
        """Its blocks are somebody else's from here on."""
        found = self._jobs.get(job)
        if found is not None:
            found.abandon()

    @property
    def under_way(self) -> bool:
        """Whether blocks are held for any."""
        return self._open > 0

    def take_copied(self) -> list[int]:
        """Jobs whose blocks are not read any more, since the last call."""
        copied = _taken(self._copied)
        self._open -= len(copied)
        for job in copied:
            self._jobs.pop(job, None)
        return copied

    def take_stored(self) -> list[int]:
        """Jobs all of which is visible, since the last call."""
        return _taken(self._stored)

    def close(self, timeout_s: float) -> None:
        """What was begun is finished within `timeout_s`, or dropped."""
        self._closing.set()
        self._thread.close(timeout_s)
        if self._queue is not None:
            self._queue.close(timeout_s)

    # -- from anywhere ----------------------------------------------------------------------------

    def say_copied(self, job: int) -> None:
        self._copied.append(job)
        self._on_news()

    def say_stored(self, job: int) -> None:
        self._stored.append(job)
        self._on_news()

    # -- in its thread ----------------------------------------------------------------------------

    def _save(self, job: _Job, save: Save, epoch: int, none_hash: bytes, moment: Event) -> None:
        lost = ""
        try:
            self._waiting.pop()
            if self._closing.is_set() or job.abandoned:
                lost = (Reason.ABANDONED if job.abandoned else Reason.CLOSED).value
            else:
                self._begin(job, save, epoch, none_hash, moment)
        except ObjectCacheError as error:
            log.info("request %r is not stored: %s", save.request, error)
            lost = Reason.FAILED.value
        except Exception:
            log.exception("storing request %r", save.request)
            lost = Reason.FAILED.value
        finally:
            self._end(job, save, lost)

    def _end(self, job: _Job, save: Save, lost: str) -> None:
        """Nothing more is begun of it."""
        if lost:
            self._counter.add(WorkerStats(dropped={lost: 1}))
        job.copied()
        job.settled(lost)

    def _begin(self, job: _Job, save: Save, epoch: int, none_hash: bytes, moment: Event) -> None:
        namespace = self._identity.namespace(epoch, none_hash, save.prompt.adapter)
        chain = self._keys.chain(namespace, save.prompt)
        if self._queue is None:
            self._queue = StoreQueue(self._access.get(), self._options.storing())
        self._counter.add(WorkerStats(saves=1))
        handles: list[tuple[StoreHandle, PartId, SavePart]] = []
        try:
            for wanted in save.parts:
                part = self._parts.get(wanted.group)
                if part is not None and wanted.block_ids:
                    handle = self._begin_part(self._queue, job, save, namespace, chain, part, wanted)
                    if handle is not None:
                        job.taken(handle)
                        handles.append((handle, part, wanted))
            for handle, part, wanted in handles:
                self._give(job, handle, part, wanted, moment)
        except BaseException:
            for handle, _, _ in handles:
                handle.abandon()
            raise
        self._queue.finish([handle for handle, _, _ in handles])

    def _begin_part(
        self,
        queue: StoreQueue,
        job: _Job,
        save: Save,
        namespace: Namespace,
        chain: KeyChain,
        part: PartId,
        wanted: SavePart,
    ) -> StoreHandle | None:
        job.begins()
        try:
            return queue.begin(
                namespace,
                chain,
                part,
                first=wanted.first,
                stop=wanted.first + len(wanted.block_ids),
                ended=save.ended,
                on_settled=partial(self._settled, job),
                on_declined=partial(self._declined, job),
            )
        except ObjectCacheError:
            job.settled(Reason.FAILED.value)
            raise

    def _give(self, job: _Job, handle: StoreHandle, part: PartId, wanted: SavePart, moment: Event) -> None:
        caches, saver = self._caches, self._saver
        if caches is None or saver is None:
            return
        table = block_table(wanted.block_ids[handle.first - wanted.first : handle.stop - wanted.first])
        for layer in caches.layers_of(part):
            place = caches.layers[part, layer].at(table)
            job.reads()
            source = saver.source(place, after=moment, on_copied=job.copied)
            if not handle.layer(layer, source, wait_s=ROOM_S):
                source.drop()
                return

    def _settled(self, job: _Job, handle: StoreHandle) -> None:
        if handle.stored:
            self._counter.add(WorkerStats(stored_bytes=handle.payload_bytes))
            job.settled()
        else:
            self._declined(job, handle.reason or Reason.FAILED)

    def _declined(self, job: _Job, reason: Reason) -> None:
        self._counter.add(WorkerStats(dropped={reason.value: 1}))
        job.settled("" if reason is Reason.COVERED else reason.value)


def _taken(told: deque[int]) -> list[int]:
    return [told.popleft() for _ in range(len(told))]
