"""The loads of a rank: those that its step waits for, those that are parked beside it, and how they ended."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from objectcache.connectors.vllm.messages import Load, Progress, Stage
from objectcache.connectors.vllm.naming.identity import Identity
from objectcache.connectors.vllm.worker.counters import Outcome, WorkerCounter, WorkerStats
from objectcache.connectors.vllm.worker.loads import BlockLoader, Loading, blocks_of
from objectcache.connectors.vllm.worker.paged_caches import PagedCaches
from objectcache.connectors.vllm.worker.transfers import Transfers
from objectcache.errors import DeliveryError, ObjectCacheError

log = logging.getLogger(__name__)


class StepLoads:
    """For the engine's thread. Never raises what a load runs into."""

    def __init__(self, identity: Identity, transfers: Transfers, counter: WorkerCounter, deadline_s: float) -> None:
        """A wait for a layer ends when nothing has come for `deadline_s`."""
        self._identity = identity
        self._transfers = transfers
        self._counter = counter
        self._deadline_s = deadline_s
        self._loader: BlockLoader | None = None
        self._waited: list[Loading] = []
        self._parked: list[Loading] = []
        self._over: list[Loading] = []
        """Their staging memory goes back once nothing reads it."""
        self._progress: dict[int, Progress] = {}
        self._failed_attempts: set[int] = set()
        self._failed_blocks: set[int] = set()
        self._failed_parked: dict[str, set[int]] = {}
        self._dropped_parked: set[str] = set()
        self._failed_now: dict[str, set[int]] = {}

    def use(self, caches: PagedCaches) -> None:
        self._loader = BlockLoader(self._identity, caches)

    @property
    def idle(self) -> bool:
        """Whether there is none, and nothing to tell of any."""
        under_way = self._waited or self._parked or self._over
        untold = self._failed_parked or self._dropped_parked or self._failed_now
        return not (under_way or untold or self._progress or self._failed_attempts or self._failed_blocks)

    @property
    def waiting(self) -> bool:
        """Whether the step has loads to wait for."""
        return bool(self._waited)

    @property
    def parked(self) -> Sequence[Loading]:
        return self._parked

    # -- in a step --------------------------------------------------------------------------------

    def start(self, load: Load) -> None:
        claimed = self._transfers.claim(load.attempt)
        if claimed is None or self._loader is None:
            self._fail(load)
            return
        fetch = claimed[1]
        try:
            loading = self._loader.start(load, fetch)
        except ObjectCacheError as error:
            log.warning("request %r is not loaded: %s", load.request, error)
            self._transfers.give_back(fetch)
            self._fail(load)
            return
        if load.parked:
            self._parked.append(loading)
        else:
            self._waited.append(loading)
            fetch.correct(None, 0.0)

    def wait(self, layer: int) -> None:
        """Until every load of the step has `layer` in its blocks, or has failed."""
        for loading in self._waited:
            if loading.error is None:
                self._counter.waited(layer, loading.wait(layer, self._deadline_s))

    def correct(self, window_s: float, asked_s: float) -> None:
        """Layers of this step take `window_s`; the first was asked for `asked_s` ago."""
        for loading in self._waited:
            loading.fetch.correct(window_s, asked_s)

    def end(self) -> None:
        """What the step was to wait for, and did not, has failed: it may have computed with anything."""
        for loading in self._waited:
            if not loading.complete:
                loading.fail(DeliveryError("not all of its layers were asked for"))
            self._ended(loading)
        self._waited.clear()

    def drop(self, attempt: int) -> None:
        """Its blocks are not written from here on."""
        for loads in (self._waited, self._parked):
            for loading in [loading for loading in loads if loading.load.attempt == attempt]:
                loading.drop()
                loads.remove(loading)
                self._cancel(loading)
                if loading.load.parked:  # vLLM keeps the blocks until it hears of it
                    self._dropped_parked.add(loading.load.request)

    def _ended(self, loading: Loading) -> None:
        """Nobody waits for it any more: it is in its blocks, or has failed."""
        fetch, load, error = loading.fetch, loading.load, loading.error
        if error is None:
            tokens = load.stop_token - load.first_token
            self._counter.add(WorkerStats(hits=1, tokens=tokens, bytes=fetch.match.payload_bytes))
            self._transfers.settle(fetch)
        else:
            log.warning("request %r: its load failed: %s", load.request, error)
            outcome = self._transfers.failed(error)
            self._counter.add(WorkerStats(outcomes={outcome.value: 1}))
            self._fail(load, outcome)
            self._cancel(loading)
            return
        self._over.append(loading)

    def _cancel(self, loading: Loading) -> None:
        """Its transfer, which may be waiting for a store that hangs; it writes nothing any more."""
        self._over.append(loading)
        self._transfers.in_background(loading.moving.close)

    def _fail(self, load: Load, outcome: Outcome = Outcome.FAILED) -> None:
        self._counter.add(WorkerStats(failed_loads=1))
        blocks = blocks_of(load, self._identity)
        if load.parked:
            self._progress[load.attempt] = Progress(Stage.FAILED, reason=outcome)
            self._failed_parked[load.request] = blocks
        else:
            self._failed_attempts.add(load.attempt)
            self._failed_blocks |= blocks

    # -- what became of them ----------------------------------------------------------------------

    def finished(self) -> set[str]:
        """Requests whose parked loads are in their blocks, have failed or were dropped, since the last call."""
        finished, self._dropped_parked = self._dropped_parked, set()
        for loading in list(self._parked):
            over = loading.over
            loading.look(self._deadline_s)  # afterwards: what has ended without an error is there
            if loading.error is None and not over:
                continue
            self._parked.remove(loading)
            if loading.error is None:
                self._progress[loading.load.attempt] = Progress(Stage.LOADED, loading.load.stop_token)
                finished.add(loading.load.request)
            self._ended(loading)
        self._failed_now, self._failed_parked = self._failed_parked, {}
        return finished | set(self._failed_now)

    @property
    def failed_parked(self) -> dict[str, set[int]]:
        """Of what `finished` said last, requests whose loads failed, and the blocks that they were to fill."""
        return self._failed_now

    def take_failed_blocks(self) -> set[int]:
        """Blocks of loads that a step was to wait for, and that failed, since the last call."""
        failed, self._failed_blocks = self._failed_blocks, set()
        return failed

    def take_failed_attempts(self) -> frozenset[int]:
        """The same as attempts."""
        failed, self._failed_attempts = self._failed_attempts, set()
        return frozenset(failed)

    def take_progress(self) -> dict[int, Progress]:
        """Of parked loads that have ended since the last call."""
        progress, self._progress = self._progress, {}
        return progress

    def give_back(self) -> None:
        """Staging memory that nothing reads any more."""
        for loading in [loading for loading in self._over if loading.over]:
            self._over.remove(loading)
            self._transfers.give_back(loading.fetch)

    def close(self) -> None:
        """No block is written from here on."""
        loads = (*self._waited, *self._parked, *self._over)
        for loading in loads:
            loading.drop()
        for loading in loads:
            loading.moving.close()
        if self._loader is not None:
            self._loader.close()
