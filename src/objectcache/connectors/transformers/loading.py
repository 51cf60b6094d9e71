"""From a prompt's keys to a load under way: match, decide, ask."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from typing import Any

from objectcache.cache.base import KVCache, Match, RetrieveOptions, whole_match
from objectcache.cache.retrieval import Retrieval
from objectcache.client.breaker import Breaker
from objectcache.connectors.background import BackgroundThread
from objectcache.connectors.transformers.deciding import Decider, Decision
from objectcache.connectors.transformers.delivery import Delivery
from objectcache.connectors.transformers.in_time import in_time
from objectcache.connectors.transformers.slices import KVShape
from objectcache.connectors.transformers.stats import StatsCounter
from objectcache.errors import (
    DeliveryTimeoutError,
    GatewayUnavailableError,
    IntegrityError,
    ObjectCacheError,
    RequestError,
    StoreUnavailableError,
)
from objectcache.keys import KeyChain, Namespace
from objectcache.storing.handle import as_cache_error

OUTAGES = (DeliveryTimeoutError, GatewayUnavailableError, StoreUnavailableError)
"""Who asks again at once would wait again."""

log = logging.getLogger(__name__)


class PrefixLoader:
    """Of one model. Leases are given back in the background: it may take a round trip, and a forward is waiting.

    A cache that is late or gone is left alone by a breaker, after the first failure: each costs somebody `deadline_s`.
    """

    def __init__(
        self,
        cache: KVCache,
        model: Any,
        shape: KVShape,
        chunk_tokens: int,
        decider: Decider,
        stats: StatsCounter,
        background: BackgroundThread,
        deadline_s: float,
    ) -> None:
        """`deadline_s` bounds a look-up, and how long nothing may come of what is loaded."""
        self._deadline_s = deadline_s
        self._breaker = Breaker(failures_to_open=1)
        self._lock = threading.Lock()
        self._cache = cache
        self._model = model
        self._shape = shape
        self._chunk_tokens = chunk_tokens
        self._decider = decider
        self._stats = stats
        self._background = background

    def load(
        self, namespace: Namespace, chain: KeyChain, prompt_tokens: int, options: RetrieveOptions
    ) -> tuple[Decision, Delivery | None, ObjectCacheError | None]:
        """Of the longest stored prefix of `chain`, what is worth loading; or why nothing of it could be had."""
        nothing = Decision(Match(namespace, 0), 0, options)
        if not len(chain):
            return nothing, None, None
        begin_s = time.perf_counter()
        with self._lock:
            if not self._breaker.allows(time.monotonic()):
                self._stats.add(left_alone=1)
                return nothing, None, StoreUnavailableError("the cache was late or gone: left alone for a while")
        try:
            decision, retrieval = in_time(
                lambda: self._asked(namespace, chain, prompt_tokens, options),
                min(self._deadline_s, options.deadline_s),
                self._too_late,
                what="looking up the prefix",
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, the model can compute
            found = self._failed(error)
            self._stats.add(lookup_failures=1)
            return nothing, None, found
        if retrieval is None:
            with self._lock:
                self._breaker.succeeded()
            return decision, None, None
        try:
            delivery = Delivery(
                decision.match,
                retrieval,
                self._shape,
                self._chunk_tokens,
                lambda ended: self._delivered(decision, ended),
                device=self._model.device,
                room=prompt_tokens - decision.match.tokens,
                guard=decision.guard,
                told_window_s=decision.window_s,
                progress_s=begin_s,
                patience_s=self._deadline_s,
            )
        except ObjectCacheError as error:
            self.release(decision.match)
            self._stats.add(lookup_failures=1)
            return nothing, None, error
        return decision, delivery, None

    def _asked(
        self, namespace: Namespace, chain: KeyChain, prompt_tokens: int, options: RetrieveOptions
    ) -> tuple[Decision, Retrieval | None]:
        """Match, decide, and ask for what is worth it: in one, where something is, as far as can be said before. May
        hang for as long as the cache does."""
        retrieval: Retrieval | None = None
        whole = whole_match(namespace, chain)
        most_tokens = self._decider.foresee(whole, prompt_tokens)
        if most_tokens:  # a window that turns out to be another is corrected while it runs
            told, window_s = self._decider.told(most_tokens, prompt_tokens, options)
            bound = most_tokens if most_tokens < whole.tokens else None
            match, retrieval = self._cache.match_and_retrieve(namespace, chain, options=told, most_tokens=bound)
            coming = match.bounded(most_tokens)
        else:
            match = coming = self._cache.match(namespace, chain)
        try:
            under_way_tokens = coming.tokens if retrieval is not None else 0
            decision = self._decider.decide(match, prompt_tokens, options, under_way_tokens=under_way_tokens)
            if retrieval is not None and decision.match.tokens == coming.tokens:
                decision.options, decision.window_s = told, window_s
                return decision, retrieval
            if retrieval is not None:
                retrieval.close()
            if decision.match.tokens:
                return decision, self._cache.retrieve(decision.match, options=decision.options)
        except BaseException:
            if retrieval is not None:
                retrieval.close()
            self.release(match)
            raise
        self.release(match)
        return decision, None

    def _too_late(self, answer: tuple[Decision, Retrieval | None]) -> None:
        decision, retrieval = answer
        if retrieval is not None:
            with suppress(ObjectCacheError):
                retrieval.close()
            self.release(decision.match)

    def _failed(self, error: Exception) -> ObjectCacheError:
        """As an error of ours; an outage opens the breaker, any other answer closes it."""
        if not isinstance(error, ObjectCacheError):
            log.warning("looking up a prefix failed in an unexpected way", exc_info=error)
        elif isinstance(error, OUTAGES):
            with self._lock:
                self._breaker.failed(time.monotonic())
        elif isinstance(error, RequestError | IntegrityError):
            with self._lock:
                self._breaker.succeeded()
        return as_cache_error(error)

    def _delivered(self, decision: Decision, delivery: Delivery) -> None:
        timings = delivery.timings
        whole = len(timings) == self._shape.num_layers
        self._stats.add(
            loaded_bytes=delivery.match.payload_bytes if whole else 0,
            waited_s=sum(timing.waited_s for timing in timings),
            load_failures=int(delivery.error is not None),
        )
        if whole:
            with self._lock:
                self._breaker.succeeded()
            self._decider.loaded(decision, timings[0].requested_s, [timing.landed_s for timing in timings])
        elif delivery.given_up_s is not None:  # slow, not gone: the rate that was seen counts from here on
            self._decider.gave_up(decision, delivery.given_up_s, delivery.arrived_bytes)
        elif delivery.error is not None:
            self._failed(delivery.error)
        self.release(delivery.match)

    def release(self, match: Match) -> None:
        """Give the lease back."""

        def release() -> None:
            with suppress(ObjectCacheError):  # it expires by itself
                self._cache.release(match)

        if match.lease is not None:
            self._background.submit(release)
