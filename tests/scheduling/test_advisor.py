"""What an engine has learned of rates and windows decides; what came of it is counted."""

from __future__ import annotations

from math import inf

import pytest

from objectcache.scheduling.advice import Action, Offer
from objectcache.scheduling.advisor import STALE_S, Advisor, ObservedRate
from objectcache.scheduling.windows import WindowModel

OFFER = Offer(1600, 1200, (1_000_000,) * 10, 16)


def advisor() -> Advisor:
    """Of an engine that takes 10 µs a token and layer: 160 ms for the prompt."""
    windows = WindowModel(attention_tokens=1e12)
    for tokens in (100, 1600):
        windows.observe(tokens, 0, tokens * 1e-5)
    return Advisor(windows)


def test_the_lease_s_word_counts_before_what_was_observed() -> None:
    engine = advisor()
    assert engine.expected_bytes_s(None, 0.0) == inf
    engine.loaded(0.0, 1000, 1.0, 0.0)
    assert engine.expected_bytes_s(None, 1.0) == pytest.approx(1000)
    assert engine.expected_bytes_s(5e9, 1.0) == 5e9
    assert engine.expected_bytes_s(0.0, 1.0) == 0.0
    assert engine.expected_bytes_s(None, STALE_S + 1) == inf  # somebody has to try again


def test_nothing_is_advised_before_anything_was_computed() -> None:
    engine = Advisor()
    assert engine.advise(OFFER, 1e9, 0.0) is None
    engine.computed(400, 1200, (4e-3, 4e-3, 9.0))
    assert engine.window_s(400, 1200) == pytest.approx(4e-3)
    assert engine.advise(OFFER, 1e9, 0.0) is not None


def test_advice_and_its_end_are_counted() -> None:
    engine = advisor()
    actions = []
    for rate in (1e12, 0.0, 1e8):
        advice = engine.advise(OFFER, rate, 0.0)
        assert advice is not None
        actions.append(advice.action)
    assert actions == [Action.LOAD, Action.RECOMPUTE, Action.PARTIAL]
    advice = engine.advise(OFFER, 1e12, 0.0)
    assert advice is not None
    # It came a hundred times slower, and the engine was half as fast.
    found = engine.settle(OFFER, advice, 1.0, window_s=8e-3, step=(400, 1200), rate_bytes_s=1e8)
    assert found.error_s == pytest.approx(1.0 - advice.ttft_s)
    assert 0.7 < found.regret_s < 1.0
    engine.gave_up()
    stats = engine.stats
    assert (stats.load, stats.recompute, stats.partial, stats.given_up, stats.settled) == (2, 1, 1, 1, 1)
    assert (stats.error_s, stats.regret_s) == (found.error_s, found.regret_s)
    samples = {(name, *labels.values()): value for name, labels, value in stats.samples()}
    assert samples["objectcache_advice_total", "load"] == 2
    assert samples["objectcache_advice_regret_seconds_total",] == found.regret_s


def test_a_rate_that_was_promised_has_more_patience() -> None:
    engine = advisor()
    advice = engine.advise(OFFER, 1e9, 0.0)
    assert advice is not None
    strict, patient = engine.guard(OFFER, advice, None), engine.guard(OFFER, advice, 1e9)
    assert strict.allowance_s == pytest.approx(0.015 * advice.recompute_s)
    assert strict.allowance_s < patient.allowance_s <= 0.25 * (advice.recompute_s - advice.ttft_s)
    after_s = 2 * strict.allowance_s
    assert strict.hopeless(after_s, 0)
    assert not patient.hopeless(after_s, 0)
    assert patient.hopeless(2 * patient.allowance_s, 0)


def test_rates_are_averaged_by_the_time_for_a_byte() -> None:
    rate = ObservedRate()
    assert rate.bytes_s(0.0) is None
    rate.note(0.0, 100, 1.0, 0.5)
    rate.note(1.0, 100, 3.0, 0.5)
    assert rate.bytes_s(1.0) == pytest.approx(100 / (0.7 * 1 + 0.3 * 3))
    rate.note(2.0, 0, 1.0, 0.0)
    rate.note(2.0, 5, 0.0, 0.0)
    assert rate.bytes_s(2.0) == pytest.approx(100 / (0.7 * 1 + 0.3 * 3))
    rate.note(3.0, 1, 1000.0, 0.0)  # nothing came
    assert (rate.bytes_s(3.0) or 0) < 1
