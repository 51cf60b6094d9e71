"""Load or recompute: what an engine does best with a prefix that matched, before anything is committed. Pure.

What is loaded of it is a prefix of the match; the engine computes the rest of the prompt behind it, the first step of
that while the load comes. The estimate is of the time to the first token, for each length that could be loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, lru_cache
from itertools import groupby
from math import inf

from objectcache.errors import RequestError
from objectcache.scheduling.pipeline import alike_ttft_s, arrivals_s, latest_begin_s, transfer_s
from objectcache.scheduling.windows import WindowModel

FIRST_BYTE_S = 1e-3
LONGEST_LOSS = 0.01
"""By how much of the best time a longer load may be later: it saves the engine's compute, which others want."""
HOLD_S = 5e-3
"""A step that would stand for less than this is not worth being held back."""
_COARSE = 16

Compute = Callable[[int, int], float]
"""Seconds that one layer takes for (tokens, context)."""


class Action(StrEnum):
    LOAD = "load"  # all that matched, layer by layer, at once
    HOLD = "hold"  # the same, but the engine's step begins so late that it does not stand
    PARTIAL = "partial"  # a shorter prefix; the rest of the match is computed
    RECOMPUTE = "recompute"  # nothing


@dataclass(frozen=True, slots=True)
class Offer:
    """What matched of a prompt, and what of it could be loaded.

    `layer_bytes` are what is sent of each layer, in order, when all `matched_tokens` are loaded. Loads end at multiples
    of `boundary_tokens`; 0: all or nothing. Of the prompt's rest the engine computes `step_tokens` in its first step,
    and that many in each of the following ones; 0: all in one. All tokens are counted from behind the
    `have_tokens` that the engine has already.
    """

    prompt_tokens: int
    matched_tokens: int
    layer_bytes: tuple[int, ...]
    boundary_tokens: int = 0
    step_tokens: int = 0
    have_tokens: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.matched_tokens <= self.prompt_tokens or not self.layer_bytes:
            raise RequestError(f"{self.matched_tokens} tokens of {self.prompt_tokens} are nothing to load")

    @property
    def alike(self) -> tuple[tuple[int, int], ...]:
        """(count, bytes) of layers in a row that are alike."""
        return _alike(self.layer_bytes)


@dataclass(frozen=True, slots=True)
class Advice:
    """Load the first `load_tokens` of the match, and begin the step `begin_s` after the request for them.

    `ttft_s` is the time to the first token that this is expected to take; `load_s` with all of the match, `recompute_s`
    with nothing of it. `rate_bytes_s` and `window_s` (of a layer, in the first step) are what the estimate is made of.
    """

    action: Action
    load_tokens: int
    begin_s: float
    ttft_s: float
    load_s: float
    recompute_s: float
    rate_bytes_s: float
    window_s: float


def advise(
    offer: Offer,
    compute: Compute,
    *,
    rate_bytes_s: float,
    first_byte_s: float = FIRST_BYTE_S,
    may_hold: bool = False,
    under_way_tokens: int = 0,
) -> Advice:
    """What to do with `offer` at a rate of `rate_bytes_s` (0: nothing comes; inf: all at once).

    `may_hold`: the engine has other work to do while it holds a step back. `under_way_tokens` have been asked for
    already: they are loaded unless it is worth asking again.
    """

    @cache
    def estimate(tokens: int) -> float:
        return load_ttft_s(offer, tokens, compute, rate_bytes_s, first_byte_s)

    tokens = _best_split(offer, compute, rate_bytes_s, estimate)
    if under_way_tokens and tokens:
        again_s = first_byte_s + estimate(tokens) * (1 + LONGEST_LOSS)
        if estimate(under_way_tokens) <= min(again_s, estimate(0)):
            tokens = under_way_tokens
    begin_s = 0.0
    if tokens and may_hold:
        begin_s = latest_begin_s(*_first_step(offer, tokens, compute, rate_bytes_s, first_byte_s))
    held = begin_s >= HOLD_S
    if not tokens:
        action = Action.RECOMPUTE
    elif tokens < offer.matched_tokens:
        action = Action.PARTIAL
    else:
        action = Action.HOLD if held else Action.LOAD
    return Advice(
        action,
        tokens,
        begin_s if held else 0.0,
        estimate(tokens),
        estimate(offer.matched_tokens),
        estimate(0),
        rate_bytes_s,
        compute(_step(offer, tokens), offer.have_tokens + tokens),
    )


def load_ttft_s(
    offer: Offer, tokens: int, compute: Compute, rate_bytes_s: float, first_byte_s: float = FIRST_BYTE_S
) -> float:
    """The time to the first token when the first `tokens` are loaded, and the rest of the prompt computed."""
    step = _step(offer, tokens)
    layers = len(offer.layer_bytes)
    window_s = compute(step, offer.have_tokens + tokens)
    first_s = layers * window_s
    if tokens:
        share = tokens / offer.matched_tokens
        units = [(count, transfer_s(size * share, rate_bytes_s)) for count, size in offer.alike]
        first_s = alike_ttft_s(units, window_s, first_byte_s)
    context, later_s = tokens + step, 0.0
    while context < offer.prompt_tokens:
        step = min(offer.step_tokens, offer.prompt_tokens - context)
        later_s += layers * compute(step, offer.have_tokens + context)
        context += step
    return first_s + later_s


@lru_cache(maxsize=64)
def _alike(layer_bytes: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple((len(list(same)), size) for size, same in groupby(layer_bytes))


def _step(offer: Offer, tokens: int) -> int:
    """Tokens in the first step, behind `tokens` that are loaded."""
    rest = offer.prompt_tokens - tokens
    return min(rest, offer.step_tokens or rest)


def _first_step(
    offer: Offer, tokens: int, compute: Compute, rate_bytes_s: float, first_byte_s: float
) -> tuple[list[float], list[float]]:
    """When layers land, and the windows of the step that needs them."""
    sizes = offer.layer_bytes
    if tokens < offer.matched_tokens:
        sizes = tuple(size * tokens // offer.matched_tokens for size in sizes)
    landed_s = arrivals_s(sizes, rate_bytes_s, first_byte_s=first_byte_s)
    return landed_s, [compute(_step(offer, tokens), offer.have_tokens + tokens)] * len(sizes)


def _best_split(offer: Offer, compute: Compute, rate_bytes_s: float, estimate: Callable[[int], float]) -> int:
    """How many tokens to load: the most of those that are within LONGEST_LOSS of the best.

    A load takes the longer the more there is of it, compute the shorter: between the two ends there is at most one
    length at which a layer comes just as fast as the one before it is computed, and next to it the best one inside.
    """
    choices = {0, offer.matched_tokens}
    grain = offer.boundary_tokens
    if grain and 0 < rate_bytes_s < inf:
        most = offer.matched_tokens // grain
        choices |= {grain * (most * i // _COARSE) for i in range(_COARSE + 1)}
        layer_bytes = sum(offer.layer_bytes) / len(offer.layer_bytes)
        low, high = 0, most
        while high - low > 1:
            middle = (low + high) // 2
            tokens = middle * grain
            comes_s = transfer_s(layer_bytes * tokens / offer.matched_tokens, rate_bytes_s)
            computed_s = compute(_step(offer, tokens), offer.have_tokens + tokens)
            low, high = (middle, high) if comes_s < computed_s else (low, middle)
        choices |= {low * grain, high * grain}
        # Steps and layers that are not alike move the best length a little.
        reach = max(1, most // _COARSE)
        while reach > 1:
            best = min(choices, key=estimate) // grain
            reach = reach // 2
            choices |= {at * grain for at in (best - reach, best + reach) if 0 < at <= most}
    best_s = min(map(estimate, choices))
    return max(tokens for tokens in choices if estimate(tokens) <= best_s * (1 + LONGEST_LOSS))


@dataclass(frozen=True, slots=True)
class Hindsight:
    """How an advice did: `error_s` is by how much the first token came later than was estimated; `regret_s` by how much
    later than with the best of all lengths, had the rate and the windows been known as they turned out."""

    error_s: float
    regret_s: float
    best_tokens: int


def look_back(
    offer: Offer,
    advice: Advice,
    compute: Compute,
    *,
    ttft_s: float,
    rate_bytes_s: float,
    first_byte_s: float = FIRST_BYTE_S,
) -> Hindsight:
    """`compute` and `rate_bytes_s` as they turned out, `ttft_s` the time that it took."""
    best = advise(offer, compute, rate_bytes_s=rate_bytes_s, first_byte_s=first_byte_s)
    return Hindsight(ttft_s - advice.ttft_s, max(0.0, ttft_s - best.ttft_s), best.load_tokens)


def model_compute(model: WindowModel, scale: float = 1.0) -> Compute | None:
    """What `model` predicts, times `scale`; None while it knows nothing."""
    if model.predict_s(1, 0) is None:
        return None

    def compute(tokens: int, context: int) -> float:
        return scale * (model.predict_s(tokens, context) or 0.0)

    return compute
