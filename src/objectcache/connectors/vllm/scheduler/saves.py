"""What of each request's KV is final after each step, and what of that is to be saved next.

Pure. Steps are numbered as they are scheduled; their outputs are processed in order. What a step computed is final once
its outputs are known, and known to be clean: no rank failed to load anything for it. Of a request that is everything
through that step but the last token sampled, whose KV nobody has computed, and drafts that were rejected, which lie
beyond it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

RUN_CHUNKS = 64
"""As many are saved at once while more are to come."""

DECODED_STEPS = 16
"""So many steps that decode are looked at at once."""

NEVER = 1 << 62


Batches = tuple[tuple[Sequence[str], Sequence[int]], ...]
"""Requests of a step, and how many tokens of each were computed before."""


class Known(NamedTuple):
    """Of a request now: all its `tokens`, and how often it was preempted."""

    tokens: int
    generation: int


class Due(NamedTuple):
    """Tokens [first, stop) of a request, final ones, are to be saved. `after_step`: only if that step is clean."""

    request: str
    first: int
    stop: int
    ended: bool
    after_step: int | None = None


@dataclass(slots=True)
class _Saving:
    generation: int
    prompt_tokens: int
    saved: int
    since_step: int
    end: int = 0
    """Computed through the last step that was processed and clean."""
    due: int = NEVER


class _Step(NamedTuple):
    number: int
    batches: Batches
    counts: Mapping[str, int]

    def end_of(self, request: str) -> int | None:
        for ids, before in self.batches:
            if request in ids:
                return before[ids.index(request)] + self.counts[request]
        return None


class Saves:
    """`chunk_tokens` is the smallest chunk of all groups. `decoded`: what decoding computes is saved, too. Prefixes
    shorter than `min_tokens` are not; one that grows beyond that is saved from its start."""

    def __init__(self, chunk_tokens: int, *, decoded: bool = True, min_tokens: int = 0) -> None:
        self.chunk_tokens = chunk_tokens
        self.least_tokens = -(-min_tokens // chunk_tokens) * chunk_tokens
        self.run_tokens = RUN_CHUNKS * chunk_tokens
        self.decoded = decoded
        self._requests: dict[str, _Saving] = {}
        self._steps: deque[_Step] = deque()
        self._processed: list[tuple[int, bool]] = []  # not looked at yet: steps, and whether they were clean
        self._look_until = 0  # the last step that did not decode only
        self._put_off = False  # something is due, and may be ordered at any time
        self._reached: list[str] = []  # requests of which something is due

    def started(self, request: str, generation: int, prompt_tokens: int, stored_tokens: int, step: int) -> None:
        """It runs from `step` on; its first `stored_tokens` are stored already."""
        self._take_in()
        saving = _Saving(generation, prompt_tokens, stored_tokens, step)
        saving.due = self._due(saving)
        self._requests[request] = saving

    def lost(self, request: str, tokens: int) -> None:
        """What was to come from the store beyond its first `tokens` did not: vLLM computes it."""
        self._take_in()
        saving = self._requests.get(request)
        if saving is not None:
            saving.saved = min(saving.saved, tokens)
            saving.end = min(saving.end, tokens)
            saving.due = self._due(saving)

    def put_off(self, request: str, tokens: int) -> None:
        """Of what was due nothing beyond its first `tokens` was taken."""
        self._take_in()
        self._put_off = True
        saving = self._requests.get(request)
        if saving is not None:
            saving.saved = tokens
            saving.due = self._due(saving)

    def scheduled(self, step: int, counts: Mapping[str, int], batches: Batches, *, decoding: bool) -> None:
        """In `step` each request computes `counts` tokens; `decoding`: one of each, none of which is new."""
        if counts:
            self._steps.append(_Step(step, batches, counts))
            if not decoding:
                self._look_until = step

    def processed(self, step: int, clean: bool, known: Callable[[str], Known | None]) -> Sequence[Due]:
        """The outputs of `step`, and of all before it, were processed. Of steps that nobody reported nothing is final
        by itself: it is when a later one is.

        Steps that decode are looked at several at once: they make little final, and each is somebody's next token.
        """
        self._processed.append((step, clean))
        waits = clean and step > self._look_until and not self._put_off
        if waits and len(self._processed) < DECODED_STEPS:
            return ()
        self._put_off = False
        self._take_in()
        due: list[Due] = []
        reached, self._reached = self._reached, []
        for request in reached:
            saving, now = self._requests.get(request), known(request)
            if saving is None or now is None or now.generation != saving.generation:
                continue
            one = self._next(request, saving, min(saving.end, now.tokens - 1))
            if one is not None:
                due.append(one)
        return due

    def _take_in(self) -> None:
        """What the steps that were processed since have made final."""
        for step, clean in self._processed:
            while self._steps and self._steps[0].number <= step:
                record = self._steps.popleft()
                if record.number == step and clean:
                    self._add(record)
        self._processed.clear()

    def _add(self, record: _Step) -> None:
        for ids, before in record.batches:
            for request, tokens in zip(ids, before, strict=True):
                saving = self._requests.get(request)
                if saving is None or record.number < saving.since_step:
                    continue
                saving.end = tokens + record.counts[request]
                if saving.end >= saving.due and request not in self._reached:
                    self._reached.append(request)

    def finished(self, request: str, known: Known, computed: int, *, in_step: bool) -> Due | None:
        """It ended: by the outputs of the oldest step that it was in and that is not processed (`in_step`), or from
        outside. vLLM counts `computed` tokens."""
        self._take_in()
        saving = self._requests.pop(request, None)
        if saving is None or known.generation != saving.generation:
            return None
        end, after_step = saving.end, None
        if in_step:
            for record in self._steps:
                found = record.end_of(request) if record.number >= saving.since_step else None
                if found is not None:
                    end, after_step = found, record.number
                    break
        final = min(end, computed, known.tokens - 1)
        if not self.decoded:
            final = min(final, saving.prompt_tokens)
        stop = final - final % self.chunk_tokens
        if stop <= saving.saved or stop < self.least_tokens:
            return None
        return Due(request, saving.saved, stop, True, after_step)

    def _next(self, request: str, saving: _Saving, final: int) -> Due | None:
        stop = final - final % self.chunk_tokens
        prompt = saving.prompt_tokens - saving.prompt_tokens % self.chunk_tokens
        if not self.decoded:
            stop = min(stop, prompt)
        if stop < saving.due:
            return None
        ended = saving.saved < prompt <= stop
        due = Due(request, saving.saved, stop, ended)
        saving.saved = stop
        saving.due = self._due(saving)
        return due

    def _due(self, saving: _Saving) -> int:
        """As many tokens must be final until something is saved."""
        prompt = saving.prompt_tokens - saving.prompt_tokens % self.chunk_tokens
        if saving.saved < prompt:
            return max(self.least_tokens, min(prompt, saving.saved + self.run_tokens))
        return max(self.least_tokens, saving.saved + self.run_tokens) if self.decoded else NEVER
