"""All attempts of one rank, from their look-ups to when their staging memory goes back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter

from objectcache.connectors.background import BackgroundThread
from objectcache.connectors.rates import pace_of
from objectcache.connectors.vllm.messages import LookUp, Progress, Stage
from objectcache.connectors.vllm.worker.attempts import Attempt, Fetch
from objectcache.connectors.vllm.worker.cache_access import CacheAccess, outcome_of
from objectcache.connectors.vllm.worker.counters import Outcome, WorkerCounter, WorkerStats
from objectcache.connectors.vllm.worker.fetching import Fetcher
from objectcache.connectors.vllm.worker.look_ups import LookUpLine
from objectcache.errors import DeliveryTimeoutError, ObjectCacheError
from objectcache.scheduling.advisor import Advisor

log = logging.getLogger(__name__)


class Transfers:
    """`on_news` is called from any thread when there is something to tell. All else is for the engine's thread."""

    def __init__(
        self,
        fetcher: Fetcher,
        access: CacheAccess,
        advisor: Advisor,
        background: BackgroundThread,
        counter: WorkerCounter,
        on_news: Callable[[], None],
        *,
        deadline_s: float,
        staging_bytes: int,
    ) -> None:
        self._fetcher = fetcher
        self._access = access
        self._advisor = advisor
        self._background = background
        self._counter = counter
        self._on_news = on_news
        self._deadline_s = deadline_s
        self._lock = threading.Lock()  # stages, and who has what is fetched
        self._attempts: dict[int, Attempt] = {}
        self._line = LookUpLine(fetcher, access, staging_bytes, self._found, self._nothing)

    @property
    def under_way(self) -> bool:
        """Whether news may come of any of them."""
        return any(attempt.stage in (None, Stage.FETCHING) for attempt in self._attempts.values())

    def look_up(self, order: LookUp, epoch: int, none_hash: bytes, *, refused: Outcome | None = None) -> None:
        """`refused`: nothing is looked up, for this reason."""
        attempt = Attempt(order, epoch, none_hash, perf_counter())
        self._attempts[order.attempt] = attempt
        if refused is None and not self._access.may_ask():
            refused = Outcome.LEFT_ALONE
        if refused is not None:
            self._nothing(attempt, refused)
        else:
            self._line.put(attempt)

    def claim(self, number: int) -> tuple[Attempt, Fetch] | None:
        """What is there of an attempt, to be loaded: `give_back` it then. None: it failed, or was dropped."""
        attempt = self._attempts.get(number)
        if attempt is None:
            return None
        with self._lock:
            usable = attempt.stage in (Stage.FETCHING, Stage.STAGED)
            fetch, attempt.fetch = (attempt.fetch, None) if usable else (None, attempt.fetch)
        if fetch is None:
            return None
        del self._attempts[number]
        return attempt, fetch

    def drop(self, number: int) -> None:
        """Nobody wants it any more. Those that were claimed are not known here."""
        attempt = self._attempts.pop(number, None)
        if attempt is not None:
            with self._lock:
                attempt.over = True
                fetch, attempt.fetch = attempt.fetch, None
            if fetch is not None:
                self.give_back(fetch)

    def news(self) -> dict[int, Progress]:
        """What has to be told, by attempt. Looks at all that is under way."""
        now_s = perf_counter()
        found = {}
        for number, attempt in list(self._attempts.items()):
            if attempt.stage is None:
                self._look_at_asking(attempt, now_s)
            elif attempt.stage is Stage.FETCHING:
                self._look_at_fetch(attempt, now_s)
            progress = attempt.news(now_s)
            if progress is not None:
                found[number] = progress
                if attempt.ended:
                    self._attempts.pop(number, None)
        return found

    def _look_at_asking(self, attempt: Attempt, now_s: float) -> None:
        begun_s = attempt.begun_s
        if begun_s is not None and now_s - begun_s >= self._deadline_s:
            self._access.failed(Outcome.LATE)
            self._nothing(attempt, Outcome.LATE)

    def _look_at_fetch(self, attempt: Attempt, now_s: float) -> None:
        fetch = attempt.fetch
        if fetch is None:
            return
        retrieval = fetch.retrieval
        if retrieval.complete:
            attempt.stage = Stage.STAGED
            self.settle(fetch)
            return
        error = retrieval.error
        if error is None:
            arrived_bytes, waited_s = retrieval.arrived_bytes(), now_s - retrieval.requested_s
            if fetch.watch.stalled_s(arrived_bytes, now_s) >= self._deadline_s:
                error = DeliveryTimeoutError(f"nothing came for {self._deadline_s:g} s")
            elif fetch.guard is not None and fetch.guard.hopeless(waited_s, arrived_bytes):
                self._advisor.gave_up()
                self.settle(fetch)
                self._nothing(attempt, Outcome.RECOMPUTE)
                return
        if error is not None:
            log.info("request %r: its transfer failed: %s", attempt.order.request, error)
            self._nothing(attempt, self.failed(error))

    def failed(self, error: ObjectCacheError) -> Outcome:
        """A transfer did: what to call it."""
        outcome = outcome_of(error)
        self._access.failed(outcome, delivering=True)
        self._refuse_waiting()
        return outcome

    def _refuse_waiting(self) -> None:
        """Those in line would only find out for themselves."""
        if self._access.left_alone:
            for attempt in self._line.clear():
                self._nothing(attempt, Outcome.LEFT_ALONE)

    def settle(self, fetch: Fetch) -> None:
        """Take in how fast it came, once, as far as it has come."""
        if fetch.settled:
            return
        fetch.settled = True
        retrieval, complete = fetch.retrieval, fetch.retrieval.complete
        if complete:
            self._access.delivered()
        took_s, arrived_bytes = perf_counter() - retrieval.requested_s, retrieval.arrived_bytes()

        def note() -> None:
            landed_s = [landed for layer in fetch.layers if (landed := retrieval.landed_s(layer)) is not None]
            payload, seconds, first_byte_s = max(1, arrived_bytes), took_s, 0.0
            if complete:
                payload = fetch.match.payload_bytes
                seconds, first_byte_s = pace_of(retrieval.requested_s, landed_s)
            if seconds > 0:
                self._advisor.loaded(perf_counter(), payload, seconds, first_byte_s)

        self._background.submit(note)

    def give_back(self, fetch: Fetch) -> None:
        """Nothing of it is read any more: its memory and lease go back, in the background."""

        def close() -> None:
            with suppress(ObjectCacheError):
                fetch.retrieval.close()
            self._line.give_back(fetch.room_bytes)
            self._fetcher.release(fetch.match)

        self.in_background(close)

    def in_background(self, job: Callable[[], None]) -> None:
        """Here, where there is no background any more."""
        if not self._background.submit(job):
            job()

    def close(self, timeout_s: float) -> None:
        self._line.close(timeout_s)
        for number in list(self._attempts):
            self.drop(number)

    # -- from look-up threads, too ----------------------------------------------------------------

    def _found(self, attempt: Attempt, fetch: Fetch) -> None:
        with self._lock:
            wanted = not attempt.over and attempt.stage is None
            if wanted:
                attempt.fetch, attempt.stage = fetch, Stage.FETCHING
        if not wanted:
            self.give_back(fetch)
        self._on_news()

    def _nothing(self, attempt: Attempt, outcome: Outcome) -> None:
        with self._lock:
            if attempt.over or attempt.ended:
                return
            attempt.stage = Stage.FAILED if outcome.failure else Stage.MISSED
            attempt.outcome = outcome
            fetch, attempt.fetch = attempt.fetch, None
        self._counter.add(WorkerStats(outcomes={outcome.value: 1}))
        if fetch is not None:
            self.give_back(fetch)
        if outcome.failure:
            self._refuse_waiting()
        self._on_news()
