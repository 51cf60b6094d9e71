"""Counters of one side of the connector, as vLLM carries them: from each process, every step, summed up on the way.

Plain dicts: a counter's name, or "name.reason" where it has one, to its growth; `LAYER_WAITS` to seconds, one for each
layer that a step waited for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LAYER_WAITS = "layer_waits_s"
WAITS_KEPT = 4096
"""In one interval: more say nothing that is new."""

COUNTERS: Mapping[str, str] = {
    "requests": "Requests that were looked up",
    "hits": "Requests that loaded a prefix",
    "loaded_tokens": "Prompt tokens that were loaded",
    "loaded_bytes": "Bytes of KV that were loaded, on all ranks",
    "misses": "Requests that loaded nothing, by reason",
    "failures": "Look-ups and transfers that failed, by kind",
    "saved_tokens": "Tokens whose KV was handed over for storing",
    "stored_bytes": "Bytes of KV that became visible in the store, on all ranks",
    "drops": "Bytes of KV that were not stored, by reason",
}

Stats = Mapping[str, Any]


def added(one: Stats, other: Stats) -> dict[str, Any]:
    """What both say."""
    total = dict(one)
    for name, value in other.items():
        if name == LAYER_WAITS:
            total[name] = [*total.get(name, ()), *value][:WAITS_KEPT]
        else:
            total[name] = total.get(name, 0) + value
    return total


def summary(stats: Stats) -> dict[str, int | float]:
    """For a log line: what was counted, and the waits per layer in milliseconds."""
    told: dict[str, int | float] = {
        name: value for name, value in sorted(stats.items()) if name != LAYER_WAITS and value
    }
    waits = sorted(stats.get(LAYER_WAITS, ()))
    if waits:
        told["layer_wait_ms_mean"] = round(sum(waits) / len(waits) * 1e3, 3)
        told["layer_wait_ms_max"] = round(waits[-1] * 1e3, 3)
    return told


def split_name(name: str) -> tuple[str, str]:
    """The counter and its reason ("" where it has none)."""
    counter, _, reason = name.partition(".")
    return counter, reason
