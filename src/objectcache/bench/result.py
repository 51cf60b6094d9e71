"""What every benchmark writes: raw samples with their medians, and ratios taken pair by pair.

    {"benchmark": …, "measured_at": …, "quick": …, "options": {…}, "machine": {…}, "rows": […], "summary": {…}}

A row has `name`, `unit`, `samples` and their `median`, `min`, `max`, `iqr`, and whatever else explains it.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from objectcache.errors import ConfigError

T = TypeVar("T")
Row = dict[str, Any]

MIN_PAIRS = 9
"""Fewer pairs do not support a ratio."""


def percentile(samples: Sequence[float], percent: int) -> float:
    """Interpolated between samples; the sample itself when there is only one."""
    if len(samples) == 1:
        return samples[0]
    return statistics.quantiles(samples, n=100, method="inclusive")[percent - 1]


def spread(samples: Sequence[float]) -> dict[str, float]:
    """`iqr` is the distance between the quartiles. Raises StatisticsError without samples."""
    return {
        "median": statistics.median(samples),
        "min": min(samples),
        "max": max(samples),
        "iqr": percentile(samples, 75) - percentile(samples, 25),
    }


def sample_row(name: str, unit: str, samples: Sequence[float], **about: Any) -> Row:
    return {"name": name, "unit": unit, **about, **spread(samples), "samples": list(samples)}


def ratio_row(name: str, numerator: Row, denominator: Row, **about: Any) -> Row:
    """Of two rows measured in turn: the i-th sample of one over the i-th of the other. ValueError when not in pairs."""
    pairs = zip(numerator["samples"], denominator["samples"], strict=True)
    ratios = [above / below for above, below in pairs]
    return sample_row(name, "ratio", ratios, pairs=len(ratios), of=numerator["name"], over=denominator["name"], **about)


def interleaved(
    ways: Mapping[str, Callable[[], T]], rounds: int, after: Callable[[str], None] = lambda way: None
) -> dict[str, list[T]]:
    """Measure every way once, in order, and that `rounds` times: what drifts on the machine drifts for all of them.

    `after(way)` is called between measurements.
    """
    measured: dict[str, list[T]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, measure in ways.items():
            measured[way].append(measure())
            after(way)
    return measured


@dataclass
class BenchmarkResult:
    """`summary` has a number a figure, or one for each of what was measured, by name.

    `quick` results are for finding out whether the benchmark works: nobody should quote them."""

    benchmark: str
    options: Mapping[str, Any]
    machine: Mapping[str, Any]
    quick: bool
    rows: list[Row] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    measured_at: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))

    def row(self, name: str) -> Row:
        """Raises KeyError."""
        for row in self.rows:
            if row["name"] == name:
                return row
        raise KeyError(name)

    @classmethod
    def read(cls, path: Path) -> BenchmarkResult:
        """What `write` wrote. Raises ConfigError."""
        try:
            fields = json.loads(path.read_text())
            return cls(**fields)
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{path} is no result of a benchmark: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        return {
            "benchmark": self.benchmark,
            "measured_at": self.measured_at,
            "quick": self.quick,
            "options": dict(self.options),
            "machine": dict(self.machine),
            "rows": self.rows,
            "summary": self.summary,
        }

    def write(self, path: Path) -> None:
        """As JSON, a line per row, so that two results can be compared line by line. Raises ConfigError."""
        fields = {name: json.dumps(value) for name, value in self.to_dict().items()}
        rows = ",\n  ".join(json.dumps(row) for row in self.rows)
        fields["rows"] = f"[\n  {rows}\n ]"
        text = ",\n".join(f' "{name}": {value}' for name, value in fields.items())
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{{\n{text}\n}}\n")
        except OSError as error:
            raise ConfigError(f"the result cannot be written to {path}: {error.strerror}") from error
