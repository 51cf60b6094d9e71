"""What is loaded of what matched, what is told of windows, and how it turned out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from objectcache.cache.base import Match, RetrieveOptions
from objectcache.connectors.background import BackgroundThread
from objectcache.connectors.rates import pace_of
from objectcache.connectors.steps import Marks, Step, StepClock
from objectcache.scheduling.advice import Advice, Offer
from objectcache.scheduling.advisor import STALE_S, Advisor
from objectcache.scheduling.giving_up import LoadGuard

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Decision:
    """Of one request: load `match` (nothing when it has no tokens) of `stored_tokens` that matched."""

    match: Match
    stored_tokens: int
    options: RetrieveOptions
    window_s: float | None = None
    advice: Advice | None = None
    offer: Offer | None = None
    guard: LoadGuard | None = None
    rate_bytes_s: float | None = None
    """At which it came, once that is known."""


class Decider:
    """For one model. `advises` False: all that matches is loaded, and only windows are measured and told."""

    def __init__(self, advisor: Advisor, num_layers: int, background: BackgroundThread, *, advises: bool) -> None:
        self.advisor = advisor
        self._num_layers = num_layers
        self._background = background
        self._advises = advises
        self._promised: tuple[float, float | None] | None = None
        """When, and the rate that the last lease said; None where what it said is no use any more."""

    def foresee(self, whole: Match, prompt_tokens: int) -> int | None:
        """How many tokens will be loaded if `whole` matches, as far as can be said before: it may be asked for with the
        match. None: nothing, or nobody can say, since nothing was heard of rates lately."""
        if not self._advises or self.advisor.window_s(1, 0) is None:
            return whole.tokens
        promised, now_s = self._promised, time.perf_counter()
        if promised is None or now_s - promised[0] > STALE_S:
            return None
        advice = self.advisor.foresee(whole.offer(prompt_tokens), promised[1], now_s)
        return advice.load_tokens or None if advice is not None else whole.tokens

    def decide(
        self, match: Match, prompt_tokens: int, options: RetrieveOptions, *, under_way_tokens: int = 0
    ) -> Decision:
        """Once it is known what matches, of which the first `under_way_tokens` are asked for already."""
        decision = Decision(match, match.tokens, options)
        if not match.tokens:
            return decision
        if self._advises:
            promised = match.lease.rate_bytes_s if match.lease is not None else None
            offer, now_s = match.offer(prompt_tokens), time.perf_counter()
            self._promised = now_s, promised
            advice = self.advisor.advise(offer, promised, now_s, under_way_tokens=under_way_tokens)
            if advice is not None:
                decision.offer, decision.advice = offer, advice
                log.debug("trace %r: %s", options.trace, advice)
                if not advice.load_tokens:
                    decision.match = replace(match, tokens=0, parts=())
                    return decision
                decision.match = match.shortened(advice.load_tokens)
                decision.guard = self.advisor.guard(offer, advice, promised)
        decision.options, decision.window_s = self.told(decision.match.tokens, prompt_tokens, options)
        return decision

    def told(
        self, loaded_tokens: int, prompt_tokens: int, options: RetrieveOptions
    ) -> tuple[RetrieveOptions, float | None]:
        """`options` with the window of the step that computes all but `loaded_tokens`, and that window; None where it
        is not known, or is not to be told."""
        window_s = None
        if not options.windows_s:
            window_s = self.advisor.window_s(prompt_tokens - loaded_tokens, loaded_tokens)
        if window_s is None:
            return options, None
        return replace(options, windows_s=(window_s,) * self._num_layers), window_s

    def clock(
        self,
        decision: Decision,
        marks: Marks,
        on_window: Callable[[float, float], None] | None = None,
        begin: object = None,
    ) -> StepClock:
        """For the forward that comes of `decision`. What it measures is taken in by the background thread."""

        def stepped(read: Callable[[], Step]) -> None:
            self._background.submit(lambda: self._stepped(decision, read()))

        return StepClock(self._num_layers, marks, stepped, on_window or (lambda window_s, asked_s: None), begin)

    def _stepped(self, decision: Decision, step: Step) -> None:
        if not step.windows_s:
            return
        self.advisor.computed(step.tokens, step.context, step.windows_s)
        if step.first and decision.advice is not None and decision.offer is not None:
            found = self.advisor.settle(
                decision.offer,
                decision.advice,
                step.ended_s,
                window_s=step.window_s,
                step=(step.tokens, step.context),
                rate_bytes_s=decision.advice.rate_bytes_s if decision.rate_bytes_s is None else decision.rate_bytes_s,
            )
            log.debug("trace %r: %s", decision.options.trace, found)

    def loaded(self, decision: Decision, requested_s: float, landed_s: Sequence[float]) -> None:
        """All layers have landed at `landed_s`."""
        seconds, first_byte_s = pace_of(requested_s, landed_s)
        self._note(decision, decision.match.payload_bytes, seconds, first_byte_s)

    def gave_up(self, decision: Decision, seconds: float, arrived_bytes: int) -> None:
        """Its load was given up after `seconds`."""
        self.advisor.gave_up()
        self._promised = None
        self._note(decision, max(1, arrived_bytes), seconds, 0.0)

    def _note(self, decision: Decision, payload_bytes: int, seconds: float, first_byte_s: float) -> None:
        if seconds > 0:
            decision.rate_bytes_s = payload_bytes / seconds
            self.advisor.loaded(time.perf_counter(), payload_bytes, seconds, first_byte_s)
