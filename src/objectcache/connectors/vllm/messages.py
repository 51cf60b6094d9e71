"""What the scheduler's side of the connector and its workers tell each other, once an engine step.

The scheduler's side knows requests, blocks and steps; workers know keys, layers and bytes, and do all that takes time.
All of it is plain data that pickles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

HASH_BYTES = 32
"""Of vLLM's block hashes: SHA-256."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter, as vLLM names it; workers make its fingerprint of what lies at `path`. vLLM loads each `number`
    once, whatever becomes of the files."""

    name: str
    path: str
    number: int = 0


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a request's KV is named by: vLLM's hashes of its full blocks, `HASH_BYTES` each, from its start."""

    hashes: bytes = field(repr=False)
    adapter: Adapter | None = None

    @property
    def blocks(self) -> int:
        return len(self.hashes) // HASH_BYTES


@dataclass(frozen=True, slots=True)
class LookUp:
    """Find out what is stored of a request and, where that is worth it, start its transfer into staging.

    `attempt` names it from here on, and is never used again. The first `have_tokens` are computed already, and not
    fetched; of the `prompt_tokens` at least the last one must be computed. `step_tokens` is what one engine step
    computes at most. `seconds` from now on nobody waits for it any more.
    """

    attempt: int
    request: str
    prompt: Prompt
    have_tokens: int
    prompt_tokens: int
    step_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Load:
    """Put tokens [first, stop) of what was staged for `attempt` in their blocks, for this step or, if `parked`, beside
    it: then `request` does not run before all ranks have said that it is there.

    `block_ids` are the request's own tables, one for each group, from its first token on.
    """

    attempt: int
    request: str
    first_token: int
    stop_token: int
    block_ids: tuple[tuple[int, ...], ...]
    parked: bool = False


@dataclass(frozen=True, slots=True)
class SavePart:
    """Chunks [first, first + len(block_ids)) of a group, in the group's own chunks, and the blocks that hold them."""

    group: int
    first: int
    block_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Save:
    """Store chunks that are final, and known to be clean on all ranks. Their blocks stay as they are until `job` is
    reported as copied. `ended`: a prefill is at its end, or decoding is; otherwise more of it will follow."""

    job: int
    request: str
    prompt: Prompt
    parts: tuple[SavePart, ...]
    ended: bool


@dataclass(frozen=True, slots=True)
class Orders:
    """For one step. `drops` are attempts that nobody wants any more (they may be loading: then their blocks are not to
    be written from here on; a parked load is reported as finished once nothing writes them). `idle`: nothing is
    computed in this step. `abandoned` are jobs whose blocks were given back before they were copied: what is not copied
    of them by now is not stored. `full_graph`: it may run as one CUDA graph, in which nobody asks for layers. `epoch`
    is of the namespace; `none_hash` is what the first block's hash began with. `tokens` are what the step computes in
    all, `context` what is before those of the request that computes most.
    """

    step: int
    look_ups: tuple[LookUp, ...] = ()
    loads: tuple[Load, ...] = ()
    drops: tuple[int, ...] = ()
    saves: tuple[Save, ...] = ()
    abandoned: tuple[int, ...] = ()
    idle: bool = False
    full_graph: bool = False
    epoch: int = 0
    none_hash: bytes = b""
    tokens: int = 0
    context: int = 0


class Stage(StrEnum):
    """How far an attempt is, on one rank. The last three are final."""

    FETCHING = "fetching"  # what matched is on its way into staging
    STAGED = "staged"  # all of it is there and verified
    MISSED = "missed"  # nothing is stored that is worth loading
    FAILED = "failed"  # looking it up, or its transfer, failed or was late
    LOADED = "loaded"  # a parked load is in its blocks


@dataclass(frozen=True, slots=True)
class Progress:
    """Of one attempt on one rank. `tokens` are what can be loaded, counted from the prompt's start (0: none); shorter
    prefixes of it end at multiples of `boundary_tokens` (0: there are none).

    `fits_in_s` is how long, from when it was said, until the rest fits the windows of the step that computes what
    follows: admitted then, the step waits for nothing. None: nobody knows yet. `reason` says why it missed or failed.
    While it is fetched `arrived_bytes` of it are there: that they grow says that it makes progress.
    """

    stage: Stage
    tokens: int = 0
    boundary_tokens: int = 0
    fits_in_s: float | None = None
    reason: str = ""
    arrived_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """Of one or more ranks, after a step: what is new. Every rank reports every step, with nothing new as well: only
    then is the step known to be clean. `copied` are jobs whose blocks are not read any more, by the ranks that say so,
    `stored` chunks that became visible, by job, and `failed_loads` attempts of this step of which a layer did not come
    (`stop_token` of what is good of them is their `first_token`)."""

    step: int
    progress: Mapping[int, Mapping[int, Progress]] = field(default_factory=dict)
    """By attempt and rank."""
    copied: Mapping[int, frozenset[int]] = field(default_factory=dict)
    """By job: ranks."""
    stored: Mapping[int, frozenset[int]] = field(default_factory=dict)
    """By job: ranks on which it is visible."""
    failed_loads: frozenset[int] = frozenset()

    def merged(self, other: Report) -> Report:
        """What both say, of the same step."""
        progress = {attempt: dict(ranks) for attempt, ranks in self.progress.items()}
        for attempt, ranks in other.progress.items():
            progress.setdefault(attempt, {}).update(ranks)
        return Report(
            max(self.step, other.step),
            progress,
            _merged(self.copied, other.copied),
            _merged(self.stored, other.stored),
            self.failed_loads | other.failed_loads,
        )


def _merged(one: Mapping[int, frozenset[int]], other: Mapping[int, frozenset[int]]) -> dict[int, frozenset[int]]:
    return {job: one.get(job, frozenset()) | other.get(job, frozenset()) for job in {*one, *other}}


def declined(orders: Orders, rank: int) -> Report:
    """What a rank says that does nothing at all: nobody waits for it, and no block is held for it."""
    missed = {one.attempt: {rank: Progress(Stage.MISSED, reason="idle")} for one in orders.look_ups}
    copied = {save.job: frozenset((rank,)) for save in orders.saves}
    return Report(orders.step, missed, copied)
