"""Bars: figures of a summary that must be reached."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Bar:
    """`key` of the summary must be at least, or at most, `limit`."""

    key: str
    limit: float
    at_most: bool = False

    @property
    def rule(self) -> str:
        return f"{self.key} {'≤' if self.at_most else '≥'} {self.limit:g}"

    def met_by(self, value: float) -> bool:
        return value <= self.limit if self.at_most else value >= self.limit


class Verdict(NamedTuple):
    """`of`: which of those that a bar is for; "" where it is for one only."""

    bar: Bar
    value: float
    met: bool
    of: str = ""


def judge(bars: Iterable[Bar], summary: Mapping[str, float | Mapping[str, float]]) -> list[Verdict]:
    """A verdict per bar, and per value where the summary has several by name.

    Raises KeyError for a summary that lacks one: not measured is not met.
    """
    verdicts = []
    for bar in bars:
        found = summary[bar.key]
        values = found if isinstance(found, Mapping) else {"": found}
        verdicts += [Verdict(bar, value, bar.met_by(value), of) for of, value in values.items()]
    return verdicts
