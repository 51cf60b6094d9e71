"""What vLLM's SchedulerOutput says of a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any


class FullGraphs(StrEnum):
    """Which steps vLLM may run as one CUDA graph, in which no layer asks for its KV."""

    NEVER = "never"
    DECODING = "decoding"  # those in which every request decodes
    ALWAYS = "always"


class Uniform:
    """vLLM decides it by the numbers of tokens alone: a prefix whose last token is computed looks like decoding."""

    def __init__(self, graphs: FullGraphs, draft_tokens: int) -> None:
        self._graphs = graphs
        self._most = 1 + draft_tokens

    def full(self, counts: Mapping[str, int]) -> bool:
        """Whether the step may run as one graph."""
        if self._graphs is FullGraphs.NEVER or not counts:
            return False
        if self._graphs is FullGraphs.ALWAYS:
            return True
        values = counts.values()
        return max(values) <= self._most and min(values) == max(values)


def batches(output: Any) -> tuple[tuple[Sequence[str], Sequence[int]], ...]:
    """The step's requests, and how many tokens of each were computed before."""
    cached, new = output.scheduled_cached_reqs, output.scheduled_new_reqs
    running = (cached.req_ids, cached.num_computed_tokens)
    if not new:
        return (running,)
    return running, ([one.req_id for one in new], [one.num_computed_tokens for one in new])


def context(output: Any) -> int:
    """What lies before the tokens of the request that computes most of them."""
    counts = output.num_scheduled_tokens
    most = max(counts, key=counts.__getitem__, default="")
    for ids, before in batches(output):
        if most in ids:
            return before[ids.index(most)]
    return 0
