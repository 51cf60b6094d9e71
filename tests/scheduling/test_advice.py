"""Load or recompute: the best split is found, and no bandwidth makes it slower than no cache at all."""

from __future__ import annotations

import time
from dataclasses import replace
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.errors import RequestError
from objectcache.scheduling.advice import (
    HOLD_S,
    LONGEST_LOSS,
    Action,
    Advice,
    Compute,
    Offer,
    advise,
    load_ttft_s,
    look_back,
    model_compute,
)
from objectcache.scheduling.giving_up import LoadGuard
from objectcache.scheduling.pipeline import alike_ttft_s, arrivals_s, transfer_s, ttft_s
from objectcache.scheduling.windows import WindowModel
from tests.scheduling.h100 import WINDOWS_S

LLAMA_BYTES = 4096
"""Of a token, at each of 32 layers."""


def h100() -> Compute:
    model = WindowModel()
    for (length, hit), taken_s in WINDOWS_S.items():
        tokens = round(length * (1 - hit / 100))
        model.observe(tokens, length - tokens, taken_s)
    compute = model_compute(model)
    assert compute is not None
    return compute


COMPUTE = h100()


def llama(context: int, hit: float, step_tokens: int = 0) -> Offer:
    matched = round(context * hit / 16) * 16
    return Offer(context, matched, (matched * LLAMA_BYTES,) * 32, 16, step_tokens)


offers = st.builds(
    lambda chunks, tail, sizes, step, grain: Offer(
        16 * chunks + tail, 16 * chunks, tuple(chunks * size for size in sizes), 16 * grain, step
    ),
    st.integers(1, 200),
    st.integers(1, 3000),
    st.lists(st.integers(1, 1 << 17), min_size=1, max_size=8),
    st.sampled_from([0, 512, 2048]),
    st.integers(0, 3),
)
computes = st.builds(
    lambda a, b, c: lambda tokens, context: a + b * tokens + c * tokens * (context + tokens / 2) if tokens else 0.0,
    st.floats(0, 1e-3),
    st.floats(1e-8, 1e-5),
    st.floats(0, 1e-9),
)
rates = st.one_of(st.just(0.0), st.just(inf), st.floats(1e5, 1e12))


@given(offers, computes, rates)
def test_no_length_is_better_by_more_than_the_tolerance(offer: Offer, compute: Compute, rate: float) -> None:
    advice = advise(offer, compute, rate_bytes_s=rate)
    grain = offer.boundary_tokens
    lengths = {0, offer.matched_tokens, *(range(0, offer.matched_tokens + 1, grain) if grain else ())}
    best_s = min(load_ttft_s(offer, tokens, compute, rate) for tokens in lengths)
    assert advice.load_tokens in lengths
    assert advice.ttft_s == load_ttft_s(offer, advice.load_tokens, compute, rate)
    assert best_s * 0.999999 <= advice.ttft_s <= best_s * (1 + 2 * LONGEST_LOSS) + 1e-12
    assert advice.ttft_s <= advice.recompute_s * (1 + LONGEST_LOSS)
    assert (advice.action is Action.RECOMPUTE) == (advice.load_tokens == 0)


@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 1 << 20)), min_size=1, max_size=5),
    rates,
    st.floats(0, 1e-2),
    st.floats(0, 1e-2),
)
def test_layers_that_are_alike_are_reckoned_together(
    runs: list[tuple[int, int]], rate: float, window: float, first_byte: float
) -> None:
    sizes = [size for count, size in runs for _ in range(count)]
    one_by_one = ttft_s(arrivals_s(sizes, rate, first_byte_s=first_byte), [window] * len(sizes))
    units = [(count, transfer_s(size, rate)) for count, size in runs]
    assert alike_ttft_s(units, window, first_byte) == pytest.approx(one_by_one)


def test_what_is_under_way_stays_unless_it_is_worth_asking_again() -> None:
    offer = llama(4096, 0.875)

    def loaded(under_way: int, rate: float) -> int:
        return advise(offer, COMPUTE, rate_bytes_s=rate, first_byte_s=1e-3, under_way_tokens=under_way).load_tokens

    best = loaded(0, 12.5e9)
    assert 0 < best < 3584
    assert loaded(best - 32, 12.5e9) == best - 32, "a little less is no reason"
    assert loaded(best + 32, 12.5e9) == best + 32
    assert loaded(1600, 12.5e9) == best, "half of it is"
    assert loaded(3584, 1e9) == loaded(0, 1e9) < 1600, "so is a rate that is another than was thought"
    assert loaded(3584, 0.0) == 0


@pytest.mark.parametrize("rate", [1.2e9, 2e9, 2.5e9, 3e9, 4e9])
def test_what_is_under_way_does_not_stay_where_nothing_is_better(rate: float) -> None:
    def advised(under_way: int) -> Advice:
        offer = llama(4096, 0.875)
        return advise(offer, COMPUTE, rate_bytes_s=rate, first_byte_s=0.08, under_way_tokens=under_way)

    best = advised(0).load_tokens
    for under_way in (512, 1744, 3584):
        advice = advised(under_way)
        assert advice.load_tokens in (best, under_way)
        assert best or not advice.load_tokens
        assert advice.ttft_s <= advice.recompute_s * (1 + LONGEST_LOSS)


def test_what_to_do_with_a_real_engine() -> None:
    def action(offer: Offer, rate: float, **more: bool) -> Advice:
        return advise(offer, COMPUTE, rate_bytes_s=rate, **more)

    assert action(llama(65536, 0.5), 12.5e9).action is Action.LOAD
    assert action(llama(4096, 0.875), 0.0).action is Action.RECOMPUTE
    assert action(llama(4096, 0.5), 12.5e9).action is Action.LOAD
    assert action(llama(65536, 0.875), inf).action is Action.LOAD
    split = action(llama(16384, 0.875), 3.1e9)
    assert split.action is Action.PARTIAL
    assert 0 < split.load_tokens < 14336
    assert split.ttft_s < 0.9 * min(split.load_s, split.recompute_s)


def test_a_step_that_is_held_back_ends_no_later_and_never_stands() -> None:
    offer = replace(llama(16384, 0.875), boundary_tokens=0)
    advice = advise(offer, COMPUTE, rate_bytes_s=12.5e9, may_hold=True)
    assert advice.action is Action.HOLD
    assert advice.begin_s >= HOLD_S
    assert advice.ttft_s == advise(offer, COMPUTE, rate_bytes_s=12.5e9).ttft_s
    landed = arrivals_s(offer.layer_bytes, 12.5e9, first_byte_s=1e-3)
    windows = [advice.window_s] * 32
    assert ttft_s(landed, windows, begin_s=advice.begin_s) == pytest.approx(ttft_s(landed, windows))
    assert all(landed[layer] <= advice.begin_s + layer * advice.window_s + 1e-9 for layer in range(32))


def test_chunked_prefill_runs_only_its_first_step_under_the_load() -> None:
    whole, chunked = llama(65536, 0.5), llama(65536, 0.5, step_tokens=2048)
    assert load_ttft_s(whole, 32768, COMPUTE, inf) == pytest.approx(load_ttft_s(chunked, 32768, COMPUTE, inf), rel=0.05)
    # 16 steps of 2K: the load has the window of one of them.
    exposed = load_ttft_s(chunked, 32768, COMPUTE, 12.5e9) - load_ttft_s(chunked, 32768, COMPUTE, inf)
    assert exposed > 5 * (load_ttft_s(whole, 32768, COMPUTE, 12.5e9) - load_ttft_s(whole, 32768, COMPUTE, inf))


def test_advice_is_quick() -> None:
    offer, best_s = Offer(131072, 114688, (114688 * 1024,) * 80, 16), 1.0
    for turn in range(5):
        start_s = time.perf_counter()
        advise(offer, COMPUTE, rate_bytes_s=(2 + turn) * 1e9)
        best_s = min(best_s, time.perf_counter() - start_s)
    assert best_s < 0.02


def test_hindsight() -> None:
    offer = llama(16384, 0.875)
    advice = advise(offer, COMPUTE, rate_bytes_s=12.5e9)
    right = look_back(offer, advice, COMPUTE, ttft_s=advice.ttft_s, rate_bytes_s=12.5e9)
    assert right.error_s == 0
    assert right.regret_s <= LONGEST_LOSS * advice.ttft_s
    slow_s = load_ttft_s(offer, advice.load_tokens, COMPUTE, 1e9)
    wrong = look_back(offer, advice, COMPUTE, ttft_s=slow_s, rate_bytes_s=1e9)
    assert wrong.error_s == pytest.approx(slow_s - advice.ttft_s)
    assert wrong.regret_s == pytest.approx(slow_s - advise(offer, COMPUTE, rate_bytes_s=1e9).ttft_s)
    assert wrong.best_tokens < advice.load_tokens


def test_nothing_that_matched_is_no_offer() -> None:
    for prompt, matched, sizes in ((100, 0, (1,)), (100, 101, (1,)), (100, 10, ())):
        with pytest.raises(RequestError):
            Offer(prompt, matched, sizes)


# -- while it runs ------------------------------------------------------------------------------


def simulated_s(offer: Offer, told: float | None, rate: float, stalls_after: float = inf) -> tuple[float, float]:
    """Times to the first token with load-or-recompute, and without a cache, in virtual time.

    The lease told `told` (None: nothing); the load comes at `rate`, and stops after `stalls_after` of its bytes. The
    engine looks at what has come, 1 MiB at a time, while it waits.
    """
    expected = inf if told is None else told
    advice = advise(offer, COMPUTE, rate_bytes_s=expected)
    if not advice.load_tokens:
        return advice.ttft_s, advice.recompute_s
    share = advice.load_tokens / offer.matched_tokens
    sizes = [int(size * share) for size in offer.layer_bytes]
    total = sum(sizes)
    compute_s = len(sizes) * advice.window_s
    guard = LoadGuard(total, advice.recompute_s, compute_s=compute_s, first_byte_s=1e-3)

    def arrived(now_s: float) -> int:
        come = min(max(0.0, now_s - 1e-3) * rate if rate < inf else total, stalls_after * total, total)
        return int(come) if come >= total else int(come) >> 20 << 20

    now_s, needed = 0.0, 0
    for size in sizes:
        needed += size
        while arrived(now_s) < needed:
            if guard.hopeless(now_s, arrived(now_s)):
                return now_s + advice.recompute_s, advice.recompute_s
            now_s += guard.next_look_s
        now_s += advice.window_s
    later_s = load_ttft_s(offer, advice.load_tokens, COMPUTE, inf, 0.0) - compute_s
    return now_s + later_s, advice.recompute_s


BANDWIDTHS = [0.0, *(10 ** (exponent / 4) for exponent in range(20, 48)), inf]


@pytest.mark.parametrize("hit", [0.5, 0.875, 0.96875])
@pytest.mark.parametrize("context", [4096, 16384, 65536])
@pytest.mark.parametrize("told", [True, False])
def test_at_no_bandwidth_is_it_slower_than_no_cache(context: int, hit: float, told: bool) -> None:
    for rate in BANDWIDTHS:
        taken_s, without_s = simulated_s(llama(context, hit), rate if told else None, rate)
        assert taken_s <= 1.02 * without_s, (rate, taken_s, without_s)


@pytest.mark.parametrize("context", [4096, 16384, 65536])
def test_what_is_much_faster_is_not_given_up(context: int) -> None:
    for rate in (12.5e9, 1e11):
        taken_s, without_s = simulated_s(llama(context, 0.5), None, rate)
        assert taken_s < 0.95 * without_s


@pytest.mark.parametrize("after", [0.001, 0.1, 0.5, 0.9])
def test_a_rate_that_collapses_costs_at_most_what_was_waited(after: float) -> None:
    for context, hit in ((4096, 0.875), (16384, 0.875), (65536, 0.5)):
        offer = llama(context, hit)
        taken_s, without_s = simulated_s(offer, 12.5e9, 12.5e9, stalls_after=after)
        usual_s, _ = simulated_s(offer, 12.5e9, 12.5e9)
        assert taken_s <= after * usual_s * 1.1 + 1.45 * without_s
