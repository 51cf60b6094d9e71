"""Rows, ratios and bars: the arithmetic that figures go through."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from objectcache.bench.bars import Bar, judge
from objectcache.bench.result import BenchmarkResult, interleaved, percentile, ratio_row, sample_row, spread
from objectcache.errors import ConfigError


def test_spread_is_of_the_samples() -> None:
    assert spread([4.0, 1.0, 3.0, 2.0, 10.0]) == {"median": 3.0, "min": 1.0, "max": 10.0, "iqr": 2.0}
    assert spread([7.0]) == {"median": 7.0, "min": 7.0, "max": 7.0, "iqr": 0.0}


def test_percentiles_lie_between_samples() -> None:
    samples = [float(n) for n in range(101)]
    assert [percentile(samples, percent) for percent in (1, 50, 99)] == pytest.approx([1, 50, 99])


def test_a_ratio_is_the_median_of_ratios_within_pairs() -> None:
    """Not the ratio of medians (here 3): the machine was three times as fast in the last pairs, for both."""
    slow = sample_row("slow", "GB/s", [1.0, 2.0, 3.0])
    fast = sample_row("fast", "GB/s", [2.0, 1.0, 1.0])
    row = ratio_row("slow / fast", slow, fast, context_tokens=64)
    assert row["samples"] == [0.5, 2.0, 3.0]
    assert (row["median"], row["min"], row["max"], row["pairs"]) == (2.0, 0.5, 3.0, 3)
    assert (row["of"], row["over"], row["unit"], row["context_tokens"]) == ("slow", "fast", "ratio", 64)


def test_a_ratio_needs_pairs() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratio_row("x", sample_row("a", "s", [1.0, 2.0]), sample_row("b", "s", [1.0]))


def test_ways_are_measured_in_turn() -> None:
    order: list[str] = []

    def way(name: str) -> Callable[[], int]:
        def measure() -> int:
            order.append(name)
            return len(order)

        return measure

    after: list[str] = []
    measured = interleaved({"a": way("a"), "b": way("b"), "c": way("c")}, 2, after.append)
    assert "".join(order) == "abcabc" == "".join(after)
    assert measured == {"a": [1, 4], "b": [2, 5], "c": [3, 6]}


def result() -> BenchmarkResult:
    rows = [sample_row("a", "s", [1.0, 2.0]), sample_row("b", "s", [0.5])]
    return BenchmarkResult("none", {"pairs": 2}, {"cpu": "a CPU"}, quick=True, rows=rows, summary={"figure": 1.0})


def test_a_result_is_written_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.json"
    result().write(path)
    written = json.loads(path.read_text())
    assert written == result().to_dict() | {"measured_at": written["measured_at"]}
    assert list(written) == ["benchmark", "measured_at", "quick", "options", "machine", "rows", "summary"]
    assert sum(line.lstrip().startswith('{"name"') for line in path.read_text().splitlines()) == 2


def test_a_result_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        result().write(tmp_path)


def test_rows_are_found_by_name() -> None:
    assert result().row("b")["samples"] == [0.5]
    with pytest.raises(KeyError):
        result().row("c")


@pytest.mark.parametrize(("value", "met"), [(0.69, False), (0.70, True), (0.71, True)])
def test_a_bar_is_met_at_its_limit(value: float, met: bool) -> None:
    above, below = judge([Bar("x", 0.7), Bar("x", 0.7, at_most=True)], {"x": value})
    assert above.met is met
    assert below.met is (value <= 0.70)
    assert (above.bar.rule, below.bar.rule) == ("x ≥ 0.7", "x ≤ 0.7")


def test_what_was_not_measured_is_not_met() -> None:
    with pytest.raises(KeyError):
        judge([Bar("x", 1.0)], {})
