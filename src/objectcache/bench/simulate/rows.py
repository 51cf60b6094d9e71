"""Outcomes of simulated requests as rows and a summary: distributions of TTFT by policy."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from objectcache.bench.result import Row, percentile
from objectcache.simulation.node import Outcome

EQUAL = "equal"
TTFT, ADDED = "TTFT", "added TTFT"
PERCENTILES = (50, 95, 99)
_SHARES = [i / 200 for i in range(201)]


def distribution_row(figure: str, policy: str, samples_ms: Sequence[float]) -> Row:
    """`quantiles` are 201, from the least to the most, evenly apart: enough for a picture of 100,000 requests."""
    ordered = sorted(samples_ms)
    return {
        "name": f"{figure}, {policy}",
        "unit": "ms",
        "figure": figure,
        "policy": policy,
        "requests": len(ordered),
        "mean": statistics.fmean(ordered),
        **{f"p{percent}": percentile(ordered, percent) for percent in PERCENTILES},
        "max": ordered[-1],
        "quantiles": [ordered[round(share * (len(ordered) - 1))] for share in _SHARES],
    }


def policy_rows(outcomes: Mapping[str, Sequence[Outcome]]) -> list[Row]:
    """Two rows for each policy."""
    rows = []
    for policy, ones in outcomes.items():
        rows.append(distribution_row(TTFT, policy, [one.ttft_s * 1e3 for one in ones]))
        rows.append(distribution_row(ADDED, policy, [one.added_s * 1e3 for one in ones]))
    return rows


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """By policy: mean TTFT and added TTFT, and what the latter, its 95th percentile and its worst are over `equal`'s,
    where that is among them."""
    found = {(row["figure"], row["policy"]): row for row in rows}
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    figures: dict[str, Any] = {
        "mean_ttft_ms": {policy: found[TTFT, policy]["mean"] for policy in policies},
        "mean_added_ms": {policy: found[ADDED, policy]["mean"] for policy in policies},
    }
    equal = found.get((ADDED, EQUAL))
    if equal is not None:
        added = {policy: found[ADDED, policy] for policy in policies}
        figures["gain"] = {policy: _ratio(equal["mean"], row["mean"]) for policy, row in added.items()}
        figures["p95_ratio"] = {policy: _ratio(row["p95"], equal["p95"]) for policy, row in added.items()}
        figures["max_ratio"] = {policy: _ratio(row["max"], equal["max"]) for policy, row in added.items()}
    return figures


def _ratio(above_ms: float, below_ms: float) -> float:
    """Of two added TTFTs; less than 0.1 ms counts as that."""
    return max(above_ms, 0.1) / max(below_ms, 0.1)
