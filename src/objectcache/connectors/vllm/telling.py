"""What the two sides count, in the words of a status file (`objectcache doctor`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from objectcache.connectors.status import DROPPED, OUTCOME, EngineStatus
from objectcache.connectors.vllm.naming.facts import EngineFacts
from objectcache.connectors.vllm.naming.namespaces import idle_reason
from objectcache.connectors.vllm.naming.safety import AFTER, BEFORE, safety
from objectcache.connectors.vllm.options import VllmOptions

# Of the scheduler's side: look-ups that came to nothing there.
_OUTCOMES = {
    "too_short": "too_short",
    "too_little": "too_short",
    "late": "late",
    "covered": "held",
    "unequal": "unequal",
    "not_taken": "not_taken",
    "computed_lost": "not_taken",
}
_ENDED = ("missed:", "failed:")
_AS_THEY_ARE = ("hits", "look_ups", "opted_out", "failed_loads")


class Counted(Protocol):
    """What workers count (`counters.WorkerStats`)."""

    hits: int
    tokens: int
    bytes: int
    failed_loads: int
    stored_bytes: int
    saves: int
    outcomes: dict[str, int]
    dropped: dict[str, int]


def engine_status(facts: EngineFacts, options: VllmOptions, *, worker: bool) -> EngineStatus:
    """Of one side in one process, before it has done anything."""
    idle = idle_reason(facts)
    found = safety(facts)
    return EngineStatus(
        engine=f"vllm {facts.version}",
        url=options.url,
        role="worker" if worker else "scheduler",
        rank=facts.rank,
        ranks=facts.ranks,
        chunk_tokens=min((group.block_tokens for group in facts.groups), default=0),
        announced="" if worker else BEFORE if found.layerwise else AFTER,
        announced_why=found.reason,
        idle_reason=idle,
    )


def worker_counts(stats: Counted) -> dict[str, float]:
    """What a worker's new counts add to its status."""
    counts: dict[str, float] = {
        name: getattr(stats, name) for name in ("hits", "tokens", "bytes", "failed_loads", "stored_bytes", "saves")
    }
    counts |= {f"{OUTCOME}{reason}": amount for reason, amount in stats.outcomes.items()}
    counts |= {f"{DROPPED}{reason}": amount for reason, amount in stats.dropped.items()}
    return {name: amount for name, amount in counts.items() if amount}


def scheduler_counts(counters: Mapping[str, int]) -> dict[str, float]:
    """The same of what the scheduler's side counted. What has no word in a status is left out."""
    counts: dict[str, float] = {}
    for name, amount in counters.items():
        ended = next((name.removeprefix(end) for end in _ENDED if name.startswith(end)), "")
        if ended or name in _OUTCOMES:
            word = f"{OUTCOME}{ended or _OUTCOMES[name]}"
        elif name.startswith(DROPPED) or name in _AS_THEY_ARE:
            word = name
        else:
            continue
        counts[word] = counts.get(word, 0) + amount
    return counts
