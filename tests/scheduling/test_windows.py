"""The model of windows: exact where steps are, sensible where they are not, hard to mislead."""

from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.errors import ConfigError
from objectcache.scheduling.windows import WindowModel
from tests.scheduling.h100 import WINDOWS_S

# Of a layer, of a token, of a token and one that it attends to: which costs as much at 2K to 1M tokens.
costs = st.tuples(st.floats(0, 1e-3), st.floats(1e-8, 1e-5), st.floats(2e3, 1e6)).map(
    lambda cost: (cost[0], cost[1], cost[1] / cost[2])
)
steps = st.lists(st.tuples(st.integers(1, 20_000), st.integers(0, 100_000)), min_size=1, max_size=30)


def window_s(cost: tuple[float, float, float], tokens: int, context: int) -> float:
    return cost[0] + cost[1] * tokens + cost[2] * tokens * (context + tokens / 2)


@given(costs, steps)
def test_steps_that_were_seen_are_predicted(cost: tuple[float, float, float], shapes: list[tuple[int, int]]) -> None:
    model = WindowModel()
    for _ in range(3):
        for tokens, context in shapes:
            model.observe(tokens, context, window_s(cost, tokens, context))
    for tokens, context in shapes:
        assert model.predict_s(tokens, context) == pytest.approx(window_s(cost, tokens, context), rel=0.25)


@given(costs, st.randoms(use_true_random=False))
def test_steps_between_those_that_were_seen_are_predicted(cost: tuple[float, float, float], random: Random) -> None:
    model = WindowModel()
    for tokens in (256, 1024, 4096, 16384):
        for context in (0, 4096, 65536):
            model.observe(tokens, context, window_s(cost, tokens, context))
    for _ in range(5):
        tokens, context = random.randint(256, 16384), random.randint(0, 65536)
        assert model.predict_s(tokens, context) == pytest.approx(window_s(cost, tokens, context), rel=0.05)


@given(steps, st.lists(st.floats(1e-6, 10), min_size=30, max_size=30))
def test_whatever_is_seen_more_work_never_takes_less(shapes: list[tuple[int, int]], windows: list[float]) -> None:
    model = WindowModel()
    for (tokens, context), taken_s in zip(shapes, windows, strict=False):
        model.observe(tokens, context, taken_s)
    grid = [model.predict_s(tokens, 1000) or 0.0 for tokens in (1, 10, 100, 10_000)]
    assert grid == sorted(grid)
    grid = [model.predict_s(100, context) or 0.0 for context in (0, 10, 1000, 100_000)]
    assert grid == sorted(grid)
    assert grid[0] >= 0


def test_the_first_step_says_something_of_all_others() -> None:
    """Windows measured on an H100: from one step of 2K tokens, those of 512 to 32K tokens at 4K to 64K."""
    model = WindowModel()
    tokens, context = 2048, 2048
    model.observe(tokens, context, WINDOWS_S[4096, 50])
    for (length, hit), taken_s in WINDOWS_S.items():
        tokens = round(length * (1 - hit / 100))
        assert model.predict_s(tokens, length - tokens) == pytest.approx(taken_s, rel=0.6)
    assert model.predict_s(32768, 32768) == pytest.approx(WINDOWS_S[65536, 50], rel=0.15)


def test_windows_of_a_real_engine_have_this_form() -> None:
    model = WindowModel()
    for (length, hit), taken_s in WINDOWS_S.items():
        tokens = round(length * (1 - hit / 100))
        model.observe(tokens, length - tokens, taken_s)
    for (length, hit), taken_s in WINDOWS_S.items():
        tokens = round(length * (1 - hit / 100))
        assert model.predict_s(tokens, length - tokens) == pytest.approx(taken_s, rel=0.15)


def test_pauses_do_not_mislead() -> None:
    cost, random, model = (1e-4, 1e-6, 5e-11), Random(5), WindowModel()
    for step in range(400):
        tokens, context = random.randint(128, 8192), random.randint(0, 32768)
        pause = 10.0 if step % 10 == 9 else 1.0
        model.observe(tokens, context, window_s(cost, tokens, context) * random.uniform(0.9, 1.1) * pause)
    for tokens, context in ((256, 0), (512, 16384), (4096, 4096), (8192, 30000)):
        assert model.predict_s(tokens, context) == pytest.approx(window_s(cost, tokens, context), rel=0.15)


def test_a_change_that_stays_is_followed() -> None:
    cost, model = (1e-4, 1e-6, 5e-11), WindowModel()
    for _ in range(200):
        model.observe(1024, 4096, window_s(cost, 1024, 4096))
    for _ in range(25):
        model.observe(1024, 4096, 2 * window_s(cost, 1024, 4096))
    assert model.predict_s(1024, 4096) == pytest.approx(2 * window_s(cost, 1024, 4096), rel=0.1)


def test_other_shapes_are_not_forgotten_for_one_that_is_common() -> None:
    cost, model = (2e-4, 1e-6, 5e-11), WindowModel()
    for tokens, context in ((64, 0), (8192, 0), (1024, 65536)):
        model.observe(tokens, context, window_s(cost, tokens, context))
    for _ in range(300):
        model.observe(2048, 2048, window_s(cost, 2048, 2048))
    for tokens, context in ((64, 0), (8192, 0), (1024, 65536)):
        assert model.predict_s(tokens, context) == pytest.approx(window_s(cost, tokens, context), rel=0.1)


def test_nothing_is_said_before_anything_was_seen() -> None:
    model = WindowModel()
    for tokens, taken_s in ((0, 1.0), (10, 0.0), (10, -1.0), (10, float("nan")), (10, float("inf"))):
        model.observe(tokens, 0, taken_s)
    assert model.predict_s(10, 0) is None
    model.observe(10, 0, 1.0)
    assert model.predict_s(0, 100) == 0.0


@given(steps, st.lists(st.floats(1e-6, 10), min_size=30, max_size=30))
def test_it_can_be_kept(shapes: list[tuple[int, int]], windows: list[float]) -> None:
    model = WindowModel(attention_tokens=9000)
    for (tokens, context), taken_s in zip(shapes, windows, strict=False):
        model.observe(tokens, context, taken_s)
    again = WindowModel.from_map(json.loads(json.dumps(model.to_map())))
    assert again.predict_s(777, 5555) == model.predict_s(777, 5555)
    again.observe(30, 30, 1.0)
    model.observe(30, 30, 1.0)
    assert again.predict_s(777, 5555) == model.predict_s(777, 5555)


@pytest.mark.parametrize(
    "change",
    [
        {"attention_tokens": 0},
        {"scale": None},
        {"regions": [[1, 1, 1.0, [1.0] * 5, [1.0] * 3, 0.0]]},
        {"regions": [[1, 1, -1.0, [1.0] * 6, [1.0] * 3, 0.0]]},
        {"regions": [[1, 1, 1.0, [1.0] * 6, [1.0] * 3, float("nan")]]},
        {"regions": 3},
    ],
)
def test_what_is_no_model_is_refused(change: dict[str, object]) -> None:
    model = WindowModel()
    model.observe(10, 10, 1.0)
    with pytest.raises(ConfigError):
        WindowModel.from_map({**model.to_map(), **change})
    with pytest.raises(ConfigError):
        WindowModel.from_map({})
