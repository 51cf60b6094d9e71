"""What one engine knows of its windows and of the rates it got, and the advice that comes of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from statistics import median

from objectcache.scheduling.advice import (
    FIRST_BYTE_S,
    Action,
    Advice,
    Compute,
    Hindsight,
    Offer,
    advise,
    look_back,
    model_compute,
)
from objectcache.scheduling.giving_up import LoadGuard
from objectcache.scheduling.windows import WindowModel

STALE_S = 30.0
"""After so long without a load nobody knows what a load would get: it is tried again."""
_KEPT = 0.7
_PATIENCE = 0.25
_SETTLING_S = 0.005


@dataclass(frozen=True, slots=True)
class AdviceStats:
    """How often each action was advised, loads that were given up, and, over those whose end is known, the sums of
    how far off the estimates were (`error_s`, either way) and of the regret (`Hindsight`)."""

    load: int = 0
    hold: int = 0
    partial: int = 0
    recompute: int = 0
    given_up: int = 0
    settled: int = 0
    error_s: float = 0.0
    regret_s: float = 0.0

    def samples(self) -> Iterator[tuple[str, Mapping[str, str], float]]:
        """(name, labels, value) as Prometheus wants them: all are counters."""
        for action in Action:
            yield "objectcache_advice_total", {"action": action.value}, getattr(self, action.value)
        yield "objectcache_advice_given_up_total", {}, self.given_up
        yield "objectcache_advice_settled_total", {}, self.settled
        yield "objectcache_advice_error_seconds_total", {}, self.error_s
        yield "objectcache_advice_regret_seconds_total", {}, self.regret_s


class ObservedRate:
    """The rate of past loads, and how long their first byte took: moving averages. Times are on one clock."""

    def __init__(self) -> None:
        self._bytes_s = 0.0
        self.first_byte_s = FIRST_BYTE_S
        self._at_s = -inf

    def note(self, now_s: float, payload_bytes: int, seconds: float, first_byte_s: float) -> None:
        if payload_bytes <= 0 or seconds <= 0:
            return
        kept = _KEPT if self.bytes_s(now_s) is not None else 0.0
        # Of the times for a byte, since those are what add up.
        self._bytes_s = 1 / (kept / (self._bytes_s or 1.0) + (1 - kept) * seconds / payload_bytes)
        self.first_byte_s = kept * self.first_byte_s + (1 - kept) * max(0.0, first_byte_s)
        self._at_s = now_s

    def bytes_s(self, now_s: float) -> float | None:
        """None when there is none that is recent."""
        return self._bytes_s if now_s - self._at_s <= STALE_S else None


class Advisor:
    """Load or recompute, for the requests of one engine. Thread-safe; `now_s` is any one clock."""

    def __init__(self, windows: WindowModel | None = None, *, may_hold: bool = False) -> None:
        """`windows` is what is known from before, and learns on. `may_hold`: see `advice.advise`."""
        self.windows = windows or WindowModel()
        self._may_hold = may_hold
        self._rate = ObservedRate()
        self._stats = AdviceStats()
        self._lock = threading.Lock()

    @property
    def stats(self) -> AdviceStats:
        return self._stats

    def computed(self, tokens: int, context: int, windows_s: Sequence[float]) -> None:
        """A step took `windows_s` at its layers. Their median counts: a pause is in one of them."""
        if windows_s:
            with self._lock:
                self.windows.observe(tokens, context, median(windows_s))

    def loaded(self, now_s: float, payload_bytes: int, seconds: float, first_byte_s: float) -> None:
        """A load got `payload_bytes` in `seconds`, after the `first_byte_s` until its first byte."""
        with self._lock:
            self._rate.note(now_s, payload_bytes, seconds, first_byte_s)

    def window_s(self, tokens: int, context: int) -> float | None:
        """Of a layer, in a step to come; None before the first step was seen."""
        with self._lock:
            return self.windows.predict_s(tokens, context)

    def expected_bytes_s(self, promised_bytes_s: float | None, now_s: float) -> float:
        """The rate to expect: what was promised (a lease's), or else what loads got lately, or else any."""
        if promised_bytes_s is not None:
            return promised_bytes_s
        observed = self._rate.bytes_s(now_s)
        return inf if observed is None else observed

    def advise(
        self, offer: Offer, promised_bytes_s: float | None, now_s: float, *, under_way_tokens: int = 0
    ) -> Advice | None:
        """None while nothing is known of the engine's compute. `under_way_tokens`: see `advice.advise`."""
        advice = self.foresee(offer, promised_bytes_s, now_s, under_way_tokens=under_way_tokens)
        if advice is not None:
            with self._lock:
                self._count(**{advice.action.value: 1})
        return advice

    def foresee(
        self, offer: Offer, promised_bytes_s: float | None, now_s: float, *, under_way_tokens: int = 0
    ) -> Advice | None:
        """What `advise` would say of an offer that nobody has made yet: it is not counted."""
        with self._lock:
            compute = model_compute(self.windows)
            if compute is None:
                return None
            return advise(
                offer,
                compute,
                rate_bytes_s=self.expected_bytes_s(promised_bytes_s, now_s),
                first_byte_s=self._rate.first_byte_s,
                may_hold=self._may_hold,
                under_way_tokens=under_way_tokens,
            )

    def guard(self, offer: Offer, advice: Advice, promised_bytes_s: float | None) -> LoadGuard:
        """Watches the load that was advised. Where a rate was promised it has more patience: a hiccup is not worth
        losing a load that is faster by far."""
        share = advice.load_tokens / offer.matched_tokens
        compute_s = len(offer.layer_bytes) * advice.window_s
        allowance_s = None
        if promised_bytes_s:
            patience_s = _PATIENCE * max(0.0, advice.recompute_s - advice.ttft_s)
            first_s = share * offer.layer_bytes[0] / promised_bytes_s
            patience_s = min(patience_s, 3 * first_s + _SETTLING_S)
            allowance_s = max(LoadGuard(0, advice.recompute_s).allowance_s, patience_s)
        return LoadGuard(
            int(share * sum(offer.layer_bytes)),
            advice.recompute_s,
            compute_s=compute_s,
            first_byte_s=self._rate.first_byte_s,
            allowance_s=allowance_s,
        )

    def gave_up(self) -> None:
        with self._lock:
            self._count(given_up=1)

    def settle(
        self,
        offer: Offer,
        advice: Advice,
        ttft_s: float,
        *,
        window_s: float,
        step: tuple[int, int],
        rate_bytes_s: float,
    ) -> Hindsight:
        """How `advice` did: its request took `ttft_s`, a layer of its `step` (tokens, context) `window_s`, and the load
        came at `rate_bytes_s` (what was expected, if nothing was loaded)."""
        with self._lock:
            predicted = self.windows.predict_s(*step) or window_s
            compute: Compute | None = model_compute(self.windows, window_s / predicted if predicted else 1.0)
            if compute is None:
                return Hindsight(ttft_s - advice.ttft_s, 0.0, advice.load_tokens)
            found = look_back(
                offer,
                advice,
                compute,
                ttft_s=ttft_s,
                rate_bytes_s=rate_bytes_s,
                first_byte_s=self._rate.first_byte_s,
            )
            self._count(settled=1, error_s=abs(found.error_s), regret_s=found.regret_s)
        return found

    def _count(self, **amounts: float) -> None:
        changes = {name: getattr(self._stats, name) + amount for name, amount in amounts.items()}
        self._stats = replace(self._stats, **changes)
