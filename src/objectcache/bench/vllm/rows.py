"""From measurements to rows and the summary: pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from objectcache.bench.bars import Bar
from objectcache.bench.errors import BenchmarkError
from objectcache.bench.result import BenchmarkResult, Row, percentile, ratio_row, sample_row
from objectcache.bench.vllm.engine import Decoding, Prefill

COLD, PEER = "cold", "LMCache"
GATEWAY, DIRECT = "gateway", "direct"
LAYERWISE, WHOLE = "layerwise", "whole prefix"
TTFT = "TTFT"
ALONE, BESIDE = "p99 inter-token latency", "p99 inter-token latency beside a stalled load"
HOOKS = "hooks, a step without a hit"

BARS = (
    Bar("cold_over_hit", 2.0),
    Bar("peer_over_hit", 1.0),
    Bar("whole_prefix_over_hit", 1.0),
    Bar("hook_us_per_step", 100.0, at_most=True),
    Bar("itl_p99_ratio_stalled", 1.05, at_most=True),
)


def path_name(where: str, how: str) -> str:
    return f"{where}, {how}"


def check_tokens(measured: Mapping[str, Sequence[Prefill]]) -> None:
    """Raises BenchmarkError unless all paths computed the same token of each prompt."""
    for number, prefills in enumerate(zip(*measured.values(), strict=True)):
        tokens = {path: prefill.tokens for path, prefill in zip(measured, prefills, strict=True)}
        if len({tuple(each) for each in tokens.values()}) > 1:
            raise BenchmarkError(f"prompt {number} has different tokens: {tokens}")


def ttft_rows(measured: Mapping[str, Sequence[Prefill]]) -> list[Row]:
    """A row a path. `at_s`, from the first measurement on, shows the order."""
    zero_s = min(prefill.started_s for prefills in measured.values() for prefill in prefills)
    return [
        sample_row(
            f"{path}: {TTFT}",
            "ms",
            [prefill.ttft_s * 1e3 for prefill in prefills],
            path=path,
            at_s=[prefill.started_s - zero_s for prefill in prefills],
            loaded_tokens=prefills[0].external_tokens,
        )
        for path, prefills in measured.items()
    ]


def add_ttft(result: BenchmarkResult, measured: Mapping[str, Sequence[Prefill]]) -> None:
    """Rows, ratios and the summary. Raises BenchmarkError where paths disagree on a token."""
    check_tokens(measured)
    result.rows += ttft_rows(measured)
    compare_ttft(result)
    if PEER not in measured:
        result.rows.append({"name": PEER, "unit": "", "not_run": "no --peer-python"})


def add_stalls(result: BenchmarkResult, alone: Sequence[Decoding], beside: Sequence[Decoding]) -> None:
    rows = [*stall_rows(alone, beside), hook_row(alone)]
    result.rows += rows
    result.summary |= {row["key"]: row["median"] for row in rows if "key" in row}


def compare_ttft(result: BenchmarkResult) -> None:
    """Ratios of the rows in `result`, pair by pair, added to it and its summary; of LMCache only where it was run."""
    paths = {row["path"]: row for row in result.rows if "path" in row}
    for where in (GATEWAY, DIRECT):
        hit = paths[path_name(where, LAYERWISE)]
        others = {
            "cold_over_hit": paths[COLD],
            "whole_prefix_over_hit": paths[path_name(where, WHOLE)],
            "peer_over_hit": paths.get(PEER),
        }
        for key, other in others.items():
            if other is not None:
                row = ratio_row(f"{other['name']} / {hit['name']}", other, hit, key=key)
                result.rows.append(row)
                result.summary.setdefault(key, {})[where] = row["median"]


def stall_rows(alone: Sequence[Decoding], beside: Sequence[Decoding]) -> list[Row]:
    """p99 of each run, and one over the other."""
    about: dict[str, Any] = {"tokens": len(alone[0].itl_s)}
    rows = [
        sample_row(
            name,
            "ms",
            [percentile(run.itl_s, 99) * 1e3 for run in runs],
            of_all=percentile([itl_s for run in runs for itl_s in run.itl_s], 99) * 1e3,
            median_itl=percentile([itl_s for run in runs for itl_s in run.itl_s], 50) * 1e3,
            **about,
        )
        for name, runs in ((ALONE, alone), (BESIDE, beside))
    ]
    return [*rows, ratio_row(f"{BESIDE} / alone", rows[1], rows[0], key="itl_p99_ratio_stalled")]


def hook_row(runs: Sequence[Decoding]) -> Row:
    """µs a step, on average of each run; `median_us` are its medians, `by_hook` averages of the last one."""
    hooks = [run.hooks for run in runs if run.hooks is not None]
    return sample_row(
        HOOKS,
        "us",
        [each["us_per_step"] for each in hooks],
        steps=sum(each["steps"] for each in hooks),
        median_us=[each["median_us"] for each in hooks],
        by_hook={name: round(us, 2) for name, us in hooks[-1]["by_hook"].items()},
        key="hook_us_per_step",
    )
