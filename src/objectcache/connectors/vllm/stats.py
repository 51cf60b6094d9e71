"""Counters of the connector as vLLM carries them: from each process, every step, summed up on the way.

Plain dicts of "name" or "name.label" to how much it grew. Requests are counted by the scheduler's side, bytes and waits
by the workers: those of ranks add up.
"""

from __future__ import annotations

from collections.abc import Mapping

from objectcache.connectors.vllm.worker.counters import Outcome, WorkerStats

Stats = Mapping[str, float]

COUNTERS: Mapping[str, tuple[str, str]] = {
    "look_ups": ("", "Requests that were looked up"),
    "hits": ("", "Requests that loaded a prefix"),
    "loaded_tokens": ("", "Prompt tokens that were loaded"),
    "loaded_bytes": ("", "Bytes of KV that were put in their blocks, on all ranks"),
    "misses": ("reason", "Requests that loaded nothing, by reason"),
    "failures": ("reason", "Requests whose prefix failed to come, by kind"),
    "saves": ("", "Runs of blocks that were handed over for storing"),
    "stored_bytes": ("", "Bytes of KV that became visible in the store, on all ranks"),
    "drops": ("reason", "Runs of blocks that were not stored, by reason"),
    "layer_waits": ("layer", "How often a step waited for a layer's KV, on all ranks"),
    "layer_wait_seconds": ("layer", "How long steps stood at a layer for its KV, on all ranks"),
}
"""By name: what their label is, if they have one, and what they count."""

_SCHEDULER = {
    "look_ups": "look_ups",
    "hits": "hits",
    "hit_tokens": "loaded_tokens",
    "save_jobs": "saves",
    "late": "failures.late",
    "failed_loads": "failures.after_announcement",
    "not_saved": "drops.not_saved",
}
_NOT_OF_REQUESTS = frozenset(("unclean_steps", "saving_stopped", "shared_open_load", "put_off"))


def scheduler_stats(counters: Mapping[str, int]) -> dict[str, float]:
    """Of what the scheduler's side counts."""
    told: dict[str, float] = {}
    for name, value in counters.items():
        if not value or name in _NOT_OF_REQUESTS:
            continue
        kind, _, reason = name.partition(":")
        if name in _SCHEDULER:
            told[_SCHEDULER[name]] = value
        elif kind == "failed":
            told[f"failures.{reason or Outcome.FAILED}"] = value
        elif kind == "dropped":
            told[f"drops.{reason}"] = value
        else:
            told[f"misses.{reason or kind}"] = value
    return told


def worker_stats(stats: WorkerStats) -> dict[str, float]:
    """Of what one rank counts."""
    told: dict[str, float] = {"loaded_bytes": stats.bytes, "stored_bytes": stats.stored_bytes}
    for reason, count in stats.dropped.items():
        told[f"drops.{reason}"] = count
    for layer, waits in stats.waits.items():
        told[f"layer_waits.{layer}"] = waits.count
        told[f"layer_wait_seconds.{layer}"] = waits.total_s
    return {name: value for name, value in told.items() if value}


def added(one: Stats, other: Stats) -> dict[str, float]:
    """What both say."""
    return {name: one.get(name, 0) + other.get(name, 0) for name in {**one, **other}}


def summary(stats: Stats) -> dict[str, int | float]:
    """For a log line: what was counted, and the mean wait for a layer in milliseconds."""
    told: dict[str, int | float] = {}
    waits = waited_s = 0.0
    for name, value in sorted(stats.items()):
        counter, _ = split_name(name)
        if counter == "layer_waits":
            waits += value
        elif counter == "layer_wait_seconds":
            waited_s += value
        else:
            told[name] = value
    if waits:
        told["layer_wait_ms"] = round(waited_s / waits * 1e3, 3)
    return told


def split_name(name: str) -> tuple[str, str]:
    """The counter and its label ("" where it has none)."""
    counter, _, label = name.partition(".")
    return counter, label
