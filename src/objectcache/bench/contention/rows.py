"""From added TTFTs to rows and the summary: pure arithmetic."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from objectcache.bench.bars import Bar
from objectcache.bench.result import Row, percentile, sample_row
from objectcache.simulation.mixes import Mix

REAL, SIMULATED = "real", "simulated"
EQUAL = "equal"
TRUE = ""

BARS = (
    Bar("gain_geomean", 1.7),
    Bar("gain_min", 0.98),
    Bar("p95_ratio_pooled", 1.05, at_most=True),
    Bar("max_ratio_worst", 1.5, at_most=True),
)


@dataclass(frozen=True)
class Measured:
    """Added TTFT of each request of mix `number` under `policy`: of each repeat a list, in the order of the requests.

    `windows` says how what clients told of their windows was wrong, "" where it was the truth. `about` is what else a
    reader should know.
    """

    number: int
    mix: Mix
    policy: str
    kind: str
    added_s: Sequence[Sequence[float]]
    windows: str = TRUE
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"mix {self.number}, {self.policy}" + (f", {self.windows}" if self.windows else "")

    @property
    def request_s(self) -> list[float]:
        """Of each request the median of the repeats."""
        return [statistics.median(times) for times in zip(*self.added_s, strict=True)]

    @property
    def every_s(self) -> list[float]:
        """Of all repeats: where requests change places from one to the next, a median is no request's."""
        return [added for times in self.added_s for added in times]

    @property
    def mean_s(self) -> float:
        return statistics.fmean(self.request_s)


def jain(shares: Sequence[float]) -> float:
    """Fairness by Jain's index: 1 where all are equal, 1/n where one has all."""
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


def row(measured: Measured) -> Row:
    """Of one mix under one policy, with a sample for each request.

    `fairness` is of the speed that each request had, as a share of that with its KV local. `least_ms` and `most_ms`
    are of each request's repeats, `mean_ms` the mean of each repeat.
    """
    added_ms = [seconds * 1e3 for seconds in measured.request_s]
    local_ms = [request.layers * request.window_s * 1e3 for request in measured.mix.requests]
    speeds = [local / (local + max(0.0, added)) for local, added in zip(local_ms, added_ms, strict=True)]
    about: dict[str, Any] = {
        "mix": measured.number,
        "policy": measured.policy,
        "kind": measured.kind,
        "windows": measured.windows or "as they are",
        "cap_gb_s": measured.mix.cap_bytes_s / 1e9,
        "requests": [[r.context_tokens, r.hit, round(r.arrival_s, 6)] for r in measured.mix.requests],
        "mean": statistics.fmean(added_ms),
        "p95": percentile(added_ms, 95),
        "fairness": jain(speeds),
    }
    if measured.kind == REAL:
        about["repeats"] = len(measured.added_s)
        about["mean_ms"] = [statistics.fmean(times) * 1e3 for times in measured.added_s]
        of_each = list(zip(*measured.added_s, strict=True))
        about["least_ms"] = [min(times) * 1e3 for times in of_each]
        about["most_ms"] = [max(times) * 1e3 for times in of_each]
    return sample_row(measured.name, "ms", added_ms, **about, **measured.about)


@dataclass(frozen=True, slots=True)
class Compared:
    """A policy over `equal`, on the same mixes: geometric mean and least of the mixes' gains in mean added TTFT, and of
    all repeats the ratio of the 95th percentiles of all requests, and the worst ratio of a mix's worst requests."""

    gain_geomean: float
    gain_min: float
    p95_ratio_pooled: float
    max_ratio_worst: float


def compare(ours: Sequence[Measured], equal: Sequence[Measured]) -> Compared:
    """Of mixes in the same order. Raises StatisticsError without any."""
    pairs = list(zip(ours, equal, strict=True))
    gains = [ratio(base.mean_s, own.mean_s) for own, base in pairs]
    pooled = [percentile([added for one in which for added in one.every_s], 95) for which in (ours, equal)]
    return Compared(
        gain_geomean=statistics.geometric_mean(gains),
        gain_min=min(gains),
        p95_ratio_pooled=pooled[0] / pooled[1],
        max_ratio_worst=max(ratio(max(own.every_s), max(base.every_s)) for own, base in pairs),
    )


_NOTHING_S = 1e-4


def ratio(above_s: float, below_s: float) -> float:
    """Of two added TTFTs, of which less than 0.1 ms counts as that."""
    return max(above_s, _NOTHING_S) / max(below_s, _NOTHING_S)


def summary(measured: Sequence[Measured], default_policy: str) -> dict[str, Any]:
    """Of all that was told the truth about: `default_policy` over `equal`, and the same by policy and kind."""
    found = {(one.number, one.policy): one for one in measured if one.windows == TRUE}
    policies = list(dict.fromkeys(one.policy for one in measured))
    by_policy = {policy: [one for (_, which), one in found.items() if which == policy] for policy in policies}
    equal = by_policy[EQUAL]
    compared = {policy: compare(ones, equal) for policy, ones in by_policy.items()}
    ours = compared[default_policy]
    figures: dict[str, Any] = {
        "default_policy": default_policy,
        "gain_geomean": ours.gain_geomean,
        "gain_min": ours.gain_min,
        "p95_ratio_pooled": ours.p95_ratio_pooled,
        "max_ratio_worst": ours.max_ratio_worst,
        "gain_geomean_by_policy": {policy: one.gain_geomean for policy, one in compared.items()},
        "gain_min_by_policy": {policy: one.gain_min for policy, one in compared.items()},
        "p95_ratio_by_policy": {policy: one.p95_ratio_pooled for policy, one in compared.items()},
        "max_ratio_by_policy": {policy: one.max_ratio_worst for policy, one in compared.items()},
    }
    for kind in (REAL, SIMULATED):
        if any(one.kind == kind for one in equal):
            pair = [[one for one in by_policy[policy] if one.kind == kind] for policy in (default_policy, EQUAL)]
            figures[f"gain_geomean_{kind}"] = compare(*pair).gain_geomean
    figures["mixes"] = len(equal)
    figures["mixes_real"] = sum(one.kind == REAL for one in equal)
    return figures
