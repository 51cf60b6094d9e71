"""The workers' side of the connector, one for each rank: orders in, blocks filled and stored, reports out.

Look-ups and transfers into staging run beside the engine (`look_ups`, `transfers`), verified before they count as
landed. From `start_loads` on a load goes to its blocks layer by layer (`loads`); saves read blocks that are final
(`saving`). Nothing here raises into the engine, and nothing but `wait` makes it stand.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from time import perf_counter, sleep
from typing import Any

import objectcache
from objectcache.cache.base import KVCache
from objectcache.connectors.background import BackgroundThread
from objectcache.connectors.steps import Marks, Step, StepClock, marks_of
from objectcache.connectors.vllm.messages import Orders, Report
from objectcache.connectors.vllm.naming.identity import Identity
from objectcache.connectors.vllm.options import VllmOptions
from objectcache.connectors.vllm.worker.cache_access import CacheAccess
from objectcache.connectors.vllm.worker.chains import KeyMaker
from objectcache.connectors.vllm.worker.counters import Outcome, WorkerCounter, WorkerStats
from objectcache.connectors.vllm.worker.fetching import Fetcher
from objectcache.connectors.vllm.worker.paged_caches import PagedCaches
from objectcache.connectors.vllm.worker.saving import Saving
from objectcache.connectors.vllm.worker.step_loads import StepLoads
from objectcache.connectors.vllm.worker.transfers import Transfers
from objectcache.device import cuda_registrar
from objectcache.errors import ObjectCacheError
from objectcache.scheduling.advisor import Advisor

IDLE_S = 0.002
"""An idle step waits so long for news: the engine would go round and round meanwhile."""
FIRST_STEPS, EVERY_STEPS = 16, 8
"""Of how many steps windows are measured: each of the first, and then one of so many."""
_NAP_S = 0.0002

log = logging.getLogger(__name__)


class WorkerSide:
    """All calls come from the engine's thread, but `take_stats`."""

    def __init__(
        self, options: VllmOptions, identity: Identity, rank: int, ranks: int, *, cache: KVCache | None = None
    ) -> None:
        """A given `cache` stays the caller's to close. Otherwise `options.url` is opened with the first use, in a
        thread."""
        self._options = options
        self._identity = identity
        self._rank = rank
        self._counter = WorkerCounter()
        self._advisor = Advisor()
        self._background = BackgroundThread()
        self._access = CacheAccess(self._open, cache)
        keys = KeyMaker(min((group.key_stride for group in identity.groups), default=1))
        fetcher = Fetcher(options, identity, self._access, self._advisor, keys, shared=ranks > 1)
        self._transfers = Transfers(
            fetcher,
            self._access,
            self._advisor,
            self._background,
            self._counter,
            self._tell,
            deadline_s=options.deadline_s,
            staging_bytes=options.staging_bytes,
        )
        self._saving = Saving(options, identity, self._access, keys, self._counter, self._tell)
        self._loads = StepLoads(identity, self._transfers, self._counter, options.deadline_s)
        self._caches: PagedCaches | None = None
        self._marks: Marks | None = None
        self._clock: StepClock | None = None
        self._orders = Orders(0)
        self._told = False
        self._steps = 0
        self.loading = False
        """Whether there are loads in the step, beside it, or that are still to be told of: the same from `bind` to the
        step's end."""

    def _open(self) -> KVCache:
        cache = objectcache.open(self._options.url, options=self._options.client())
        if self._caches is not None and self._caches.device.type == "cuda":
            cache.register_buffers(cuda_registrar)
        return cache

    def _open_ahead(self) -> None:
        with suppress(ObjectCacheError):  # look-ups try again, and say so
            self._access.get()

    def _tell(self) -> None:
        self._told = True

    # -- vLLM's order of calls --------------------------------------------------------------------

    def register(self, kv_caches: Mapping[str, Any], num_blocks: int) -> None:
        """Layer name -> paged cache. Where they are not what the identity says, nothing is loaded or stored."""
        try:
            caches = PagedCaches(self._identity, kv_caches, num_blocks)
            self._loads.use(caches)
            self._saving.use(caches)
            self._marks = marks_of(caches.device)
            self._caches = caches
            self._background.submit(self._open_ahead)  # imports, and pinning on a GPU, take their time
        except Exception:
            log.exception("KV of this model is neither loaded nor stored")

    def bind(self, orders: Orders) -> bool:
        """Take a step's orders; whether `wait` is of any use in it.

        Blocks of loads that are dropped are not written from here on. Saves begin: their blocks are final, and a step
        that computes nothing has no end.
        """
        self._orders = orders
        self._clock = None
        for number in orders.drops:
            self._transfers.drop(number)
            self._loads.drop(number)
        for look_up in orders.look_ups:
            refused = Outcome.FAILED if self._caches is None or not self._options.load else None
            self._transfers.look_up(look_up, orders.epoch, orders.none_hash, refused=refused)
        for job in orders.abandoned:
            self._saving.abandon(job)
        for save in orders.saves:
            self._saving.put(save, orders.epoch, orders.none_hash)
        if orders.tokens > 1 and self._caches is not None and self._marks is not None and self._measures(orders):
            self._clock = StepClock(len(self._caches.order), self._marks, self._stepped, self._loads.correct)
        self.loading = bool(orders.loads) or not self._loads.idle
        return bool(orders.loads) or self._clock is not None

    def _measures(self, orders: Orders) -> bool:
        """Whether windows are taken from this step: from some, since marks on a device cost its engine time."""
        if orders.idle or orders.full_graph:
            return False
        self._steps += 1
        return bool(orders.loads) or self._steps <= FIRST_STEPS or not self._steps % EVERY_STEPS

    def start_loads(self, *, wait_all: bool) -> None:
        """Begin the loads of this step. `wait_all`: it runs as one graph, in which nobody asks for layers."""
        for load in sorted(self._orders.loads, key=lambda load: load.parked):
            self._loads.start(load)
        if wait_all and self._caches is not None:
            for layer in self._caches.order:
                self._loads.wait(layer)
        if self._orders.idle:
            self._idle()

    def _idle(self) -> None:
        until_s = perf_counter() + IDLE_S
        while not self._told and self._expects_news and perf_counter() < until_s:
            sleep(_NAP_S)

    @property
    def _expects_news(self) -> bool:
        if any(loading.over for loading in self._loads.parked):
            return False  # there is some
        return bool(self._loads.parked) or self._transfers.under_way or self._saving.under_way

    def wait(self, layer_name: str) -> None:
        """Return when every load of this step that the engine waits for has that layer in its blocks, or has failed:
        the host stands until the copy is queued, the current stream until it is done."""
        if self._caches is None:
            return
        layer = self._caches.number_of.get(layer_name)
        if layer is None:
            return
        clock = self._clock
        if clock is None:
            if self._loads.waiting:
                self._loads.wait(layer)
            return
        position = self._caches.position(layer)
        clock.asked(position, self._orders.tokens, self._orders.context)
        if self._loads.waiting:
            self._loads.wait(layer)
        clock.left(position)

    def end_step(self) -> None:
        """The step is computed, or queued. What it was to wait for, and did not, has failed."""
        self._loads.end()

    # -- what became of it ------------------------------------------------------------------------

    def finished_loads(self) -> set[str]:
        """Requests whose parked loads are in their blocks, or will not be, since the last call."""
        return self._loads.finished()

    def failed_loads(self) -> set[str]:
        """Of what `finished_loads` said last, those that failed."""
        return set(self._loads.failed_parked)

    def failed_parked_blocks(self) -> set[int]:
        """The blocks of `failed_loads`, for versions of vLLM that are told of blocks only."""
        return set().union(*self._loads.failed_parked.values())

    def failed_blocks(self) -> set[int]:
        """Blocks of loads of this step, not parked, that failed, since the last call."""
        self._loads.end()
        return self._loads.take_failed_blocks()

    def report(self) -> Report:
        """News since the last one."""
        told = self._told
        if told:  # and not otherwise: it may be set meanwhile
            self._told = False
        if not (told or self._transfers.attempts or self.loading):
            return Report(self._orders.step)
        self._loads.give_back()
        progress = self._transfers.news() | self._loads.take_progress()
        copied, stored = self._saving.take_copied(), self._saving.take_stored()
        failed = self._loads.take_failed_attempts()
        mine = frozenset((self._rank,))
        return Report(
            self._orders.step,
            {attempt: {self._rank: told} for attempt, told in progress.items()},
            dict.fromkeys(copied, mine),
            dict.fromkeys(stored, mine),
            failed,
        )

    @property
    def left_alone(self) -> bool:
        """Whether the storage side failed lately, and nothing is asked of it for a while."""
        return self._access.left_alone

    def take_stats(self) -> WorkerStats | None:
        """What was counted since the last call, if anything. From any thread."""
        return self._counter.take()

    def close(self, timeout_s: float = 10.0) -> None:
        """Writes no block from here on; what was saved is stored within `timeout_s`, or dropped."""
        steps: tuple[Callable[[], object], ...] = (
            self._loads.close,
            partial(self._transfers.close, timeout_s),
            partial(self._saving.close, timeout_s),
            partial(self._background.close, timeout_s),
            self._access.close,
        )
        for step in steps:
            try:
                step()
            except Exception:
                log.exception("closing the connector")

    # -- windows ----------------------------------------------------------------------------------

    def _stepped(self, read: Callable[[], Step]) -> None:
        def note() -> None:
            step = read()
            self._advisor.computed(step.tokens, step.context, step.windows_s)

        self._background.submit(note)
