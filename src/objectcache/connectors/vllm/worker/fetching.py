"""From a look-up to a transfer under way: name, match, decide, ask. In look-up threads, which it may keep waiting."""

from __future__ import annotations

from contextlib import suppress
from time import perf_counter

from objectcache.cache.base import Match, RetrieveOptions
from objectcache.connectors.vllm.naming.identity import Identity
from objectcache.connectors.vllm.options import AdmissionMode, VllmOptions
from objectcache.connectors.vllm.worker.attempts import Attempt, Fetch
from objectcache.connectors.vllm.worker.cache_access import CacheAccess, outcome_of
from objectcache.connectors.vllm.worker.chains import KeyMaker
from objectcache.connectors.vllm.worker.counters import Outcome
from objectcache.errors import BufferPoolExhaustedError, ObjectCacheError
from objectcache.layout import delivery_geometry
from objectcache.scheduling.advice import Advice, Offer
from objectcache.scheduling.advisor import Advisor

LONGEST_TRANSFER_S = 120.0
"""As long as it makes progress; it is given up earlier where it makes none."""
_TRACE_LENGTH = 256


class NothingToLoad(Exception):  # noqa: N818 - an answer, not an error
    """There is nothing to load, or nothing can be had."""

    def __init__(self, outcome: Outcome, error: ObjectCacheError | None = None) -> None:
        super().__init__(outcome)
        self.outcome = outcome
        self.error = error


class Found:
    """What is to be loaded, and of what its transfer is thought."""

    def __init__(self, match: Match, offer: Offer | None = None, advice: Advice | None = None) -> None:
        self.match = match
        self.offer = offer
        self.advice = advice
        shapes = tuple(part.shape for part in match.parts)
        self.room_bytes = delivery_geometry(shapes, 1).total_bytes
        self.num_layers = len({layer for shape in shapes for layer in shape.layers})


class Fetcher:
    """Of one rank."""

    def __init__(
        self,
        options: VllmOptions,
        identity: Identity,
        access: CacheAccess,
        advisor: Advisor,
        keys: KeyMaker,
        *,
        shared: bool,
    ) -> None:
        """`shared`: other ranks fetch their parts of the same prefixes."""
        self._options = options
        self._identity = identity
        self._access = access
        self._advisor = advisor
        self._keys = keys
        self._shared = shared

    def find(self, attempt: Attempt) -> Found:
        """Raises NothingToLoad."""
        order = attempt.order
        match = self._match(attempt)
        boundary = self._identity.layout.boundary_tokens
        have = order.have_tokens // boundary * boundary
        try:
            if not match.tokens:
                raise NothingToLoad(Outcome.NOT_STORED)
            if match.tokens <= order.have_tokens:
                raise NothingToLoad(Outcome.HELD)
            found = self._decide(self._fitting(match.after(have)), attempt)
            if found.match.tokens - order.have_tokens < max(1, self._options.min_tokens):
                raise NothingToLoad(Outcome.TOO_SHORT)
            if not self._access.may_deliver():
                raise NothingToLoad(Outcome.LEFT_ALONE)
        except BaseException:
            self.release(match)
            raise
        return found

    def _match(self, attempt: Attempt) -> Match:
        order = attempt.order
        try:
            namespace = self._identity.namespace(attempt.epoch, attempt.none_hash, order.prompt.adapter)
            limit = max(0, order.prompt_tokens - 1) // namespace.layout.key_tokens
            chain = self._keys.chain(namespace, order.prompt, limit)
        except ObjectCacheError as error:
            raise NothingToLoad(Outcome.UNNAMED, error) from error
        if len(chain) * namespace.layout.key_tokens <= order.have_tokens:
            raise NothingToLoad(Outcome.HELD if order.have_tokens else Outcome.NOT_STORED)
        try:
            match = self._access.get().match(namespace, chain, parts=self._identity.parts)
        except ObjectCacheError as error:
            outcome = outcome_of(error)
            self._access.failed(outcome)
            raise NothingToLoad(outcome, error) from error
        self._access.answered()
        return match

    def _fitting(self, match: Match) -> Match:
        """What of it staging memory can hold at all. Raises NothingToLoad."""
        room = self._options.staging_bytes
        if Found(match).room_bytes <= room:
            return match
        step = match.boundary_tokens
        low, high = 0, (match.tokens - match.have_tokens) // step if step else 0
        while high - low > 1:
            middle = (low + high) // 2
            fits = Found(match.shortened(match.have_tokens + middle * step)).room_bytes <= room
            low, high = (middle, high) if fits else (low, middle)
        if not low:
            raise NothingToLoad(Outcome.NO_ROOM)
        return match.shortened(match.have_tokens + low * step)

    def _decide(self, match: Match, attempt: Attempt) -> Found:
        order = attempt.order
        if not self._options.advise:
            return Found(match)
        promised = match.lease.rate_bytes_s if match.lease is not None else None
        offer = match.offer(order.prompt_tokens, step_tokens=order.step_tokens)
        advice = self._advisor.advise(offer, promised, perf_counter())
        if advice is None:
            return Found(match)
        if not advice.load_tokens:
            raise NothingToLoad(Outcome.RECOMPUTE)
        return Found(match.shortened(match.have_tokens + advice.load_tokens), offer, advice)

    def start(self, found: Found, attempt: Attempt) -> Fetch:
        """Raises BufferPoolExhaustedError, which may pass, and NothingToLoad."""
        order, match = attempt.order, found.match
        rest = order.prompt_tokens - match.tokens
        window_s = self._advisor.window_s(min(rest, order.step_tokens or rest), match.tokens)
        promised = match.lease.rate_bytes_s if match.lease is not None else None
        whole = self._options.admission is AdmissionMode.WHOLE
        options = RetrieveOptions(
            layers_per_unit=0 if whole else 1,  # where steps wait for layers, none waits for those behind it
            windows_s=() if window_s is None else (window_s,) * found.num_layers,
            deadline_s=LONGEST_TRANSFER_S,
            gang=order.request[:_TRACE_LENGTH] if self._shared else "",
            trace=order.request[:_TRACE_LENGTH],
        )
        try:
            retrieval = self._access.get().retrieve(match, options=options)
        except BufferPoolExhaustedError:
            raise
        except ObjectCacheError as error:
            outcome = outcome_of(error)
            self._access.failed(outcome)
            raise NothingToLoad(outcome, error) from error
        guard = None
        if found.offer is not None and found.advice is not None:
            guard = self._advisor.guard(found.offer, found.advice, promised)
        rate = self._advisor.expected_bytes_s(promised, perf_counter())
        return Fetch(match, retrieval, found.room_bytes, window_s, rate, guard=guard)

    def release(self, match: Match) -> None:
        """Give the lease back. May take a round trip."""
        if match.lease is not None:
            with suppress(ObjectCacheError):  # it expires by itself
                self._access.get().release(match)
