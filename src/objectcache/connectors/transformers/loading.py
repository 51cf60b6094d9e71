"""From a prompt's keys to a load under way: match, decide, ask."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from objectcache.cache.base import KVCache, Match, RetrieveOptions
from objectcache.connectors.background import BackgroundThread
from objectcache.connectors.transformers.deciding import Decider, Decision
from objectcache.connectors.transformers.delivery import Delivery
from objectcache.connectors.transformers.slices import KVShape
from objectcache.connectors.transformers.stats import StatsCounter
from objectcache.errors import ObjectCacheError
from objectcache.keys import KeyChain, Namespace


class PrefixLoader:
    """Of one model. Leases are given back in the background: it may take a round trip, and a forward is waiting."""

    def __init__(
        self,
        cache: KVCache,
        model: Any,
        shape: KVShape,
        chunk_tokens: int,
        decider: Decider,
        stats: StatsCounter,
        background: BackgroundThread,
    ) -> None:
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
        match = Match(namespace, 0)
        decision = Decision(match, 0, options)
        try:
            if len(chain):
                match = self._cache.match(namespace, chain)
            decision = self._decider.decide(match, prompt_tokens, options)
            if not decision.match.tokens:
                self.release(match)
                return decision, None, None
            delivery = Delivery(
                decision.match,
                self._cache.retrieve(decision.match, options=decision.options),
                self._shape,
                self._chunk_tokens,
                lambda ended: self._delivered(decision, ended),
                device=self._model.device,
                room=prompt_tokens - decision.match.tokens,
                guard=decision.guard,
                told_window_s=decision.window_s,
            )
        except ObjectCacheError as error:
            self.release(match)
            return Decision(match, match.tokens, options), None, error
        return decision, delivery, None

    def _delivered(self, decision: Decision, delivery: Delivery) -> None:
        timings = delivery.timings
        whole = len(timings) == self._shape.num_layers
        self._stats.add(
            loaded_bytes=delivery.match.payload_bytes if whole else 0,
            waited_s=sum(timing.waited_s for timing in timings),
            load_failures=int(delivery.error is not None),
        )
        if whole:
            self._decider.loaded(decision, timings[0].requested_s, [timing.landed_s for timing in timings])
        elif delivery.given_up_s is not None:
            self._decider.gave_up(decision, delivery.given_up_s, delivery.arrived_bytes)
        self.release(delivery.match)

    def release(self, match: Match) -> None:
        """Give the lease back."""

        def release() -> None:
            with suppress(ObjectCacheError):  # it expires by itself
                self._cache.release(match)

        if match.lease is not None:
            self._background.submit(release)
