"""Policies compared on mixes: how much lower mean added TTFT is than under `equal`, and what the worst request pays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import exp, log

from objectcache.scheduling import POLICIES, Scheduler
from objectcache.simulation.fluid import LINK, added_ttft_s
from objectcache.simulation.mixes import Mix


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """One policy on all mixes, against work-conserving `equal`.

    `gain_*`: mean added TTFT under `equal` over that under the policy, a mix each; geometric mean and least.
    `p95_ratio_pooled`: 95th percentile of all requests of all mixes, over that under `equal`. `max_ratio_worst`: of any
    mix, the worst request's added TTFT over the worst one's under `equal`. `mean_added_s`: of all requests.
    """

    policy: str
    mixes: int
    requests: int
    gain_geomean: float
    gain_min: float
    gain_max: float
    p95_ratio_pooled: float
    max_ratio_worst: float
    mean_added_s: float


def evaluate_policies(
    mixes: Sequence[Mix],
    policies: Iterable[str] = tuple(POLICIES),
    said_windows: float = 1.0,
    progress: Callable[[str, int], None] | None = None,
) -> tuple[PolicyRow, ...]:
    """A row for each policy. Clients say their windows times `said_windows`. `progress`: policy, mixes done."""
    baseline = [added_ttft_s(mix, Scheduler("equal", {LINK: mix.cap_bytes_s})) for mix in mixes]
    rows = []
    for policy in policies:
        added = []
        for mix in mixes:
            added.append(added_ttft_s(mix, Scheduler(policy, {LINK: mix.cap_bytes_s}), said_windows))
            if progress is not None:
                progress(policy, len(added))
        rows.append(policy_row(policy, added, baseline))
    return tuple(rows)


def policy_row(policy: str, added: Sequence[Sequence[float]], baseline: Sequence[Sequence[float]]) -> PolicyRow:
    """From added TTFT (s) by mix and request, under `policy` and under `equal`. Nothing added counts as 1 µs."""
    gains = [max(sum(under), 1e-6) / max(sum(ours), 1e-6) for ours, under in zip(added, baseline, strict=True)]
    worst = [max(max(ours), 1e-6) / max(*under, 1e-6) for ours, under in zip(added, baseline, strict=True)]
    ours = sorted(added_s for mix in added for added_s in mix)
    under = sorted(added_s for mix in baseline for added_s in mix)
    return PolicyRow(
        policy=policy,
        mixes=len(added),
        requests=len(ours),
        gain_geomean=exp(sum(map(log, gains)) / len(gains)),
        gain_min=min(gains),
        gain_max=max(gains),
        p95_ratio_pooled=_percentile(ours, 0.95) / max(_percentile(under, 0.95), 1e-6),
        max_ratio_worst=max(worst),
        mean_added_s=sum(ours) / len(ours),
    )


def _percentile(ordered: Sequence[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
