"""Requests that wait for their prefix: when they are looked up, how long they wait, and with what they run.

Pure: vLLM's questions and the workers' reports come in with the time, answers and orders go out.

An attempt is looked up, and fetching on every rank until all of it is staged or the rest of it fits the windows of its
step; then its request is admitted. It ends without that when a rank has nothing (missed), fails, or makes no progress
for as long as requests wait. A request gets one attempt, one more when vLLM loses what it had computed, and starts over
when it was preempted.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from objectcache.connectors.vllm.messages import LookUp, Progress, Prompt, Report, Stage
from objectcache.connectors.vllm.options import AdmissionMode
from objectcache.connectors.vllm.scheduler.attempts import Attempt

ATTEMPTS = 2
"""Of one request, between preemptions."""


@dataclass(frozen=True, slots=True)
class WaitingOptions:
    """`aligned_tokens`: prefixes that vLLM is told of are multiples of it. `step_tokens` is what one step computes at
    most. `layerwise_safe`: vLLM recovers rightly from a load that fails after it was announced; otherwise only what is
    staged, hence verified, on all ranks is announced."""

    ranks: int
    aligned_tokens: int
    step_tokens: int
    layerwise_safe: bool
    mode: AdmissionMode = AdmissionMode.IN_TIME
    deadline_s: float = 2.0
    min_tokens: int = 0


class Answer(NamedTuple):
    """To vLLM: tokens beyond those that it has computed. None: not known yet, ask again. `parked`: load them beside
    the steps, before the request runs."""

    tokens: int | None
    parked: bool = False


NOTHING = Answer(0)
LATER = Answer(None)


@dataclass(frozen=True, slots=True)
class Admitted:
    """Tokens [first, stop) of an attempt go into their blocks. `verified`: all of them are staged on all ranks."""

    attempt: int
    first: int
    stop: int
    parked: bool
    verified: bool


@dataclass(slots=True)
class _Waiter:
    generation: int
    attempt: Attempt | None = None
    attempts: int = 0
    answer: Answer | None = None
    asked_with: int = 0
    loading: Admitted | None = None


class Waiting:
    def __init__(self, options: WaitingOptions, counters: Counter[str]) -> None:
        self.options = options
        self._counters = counters
        self._numbers = itertools.count(1)
        self._waiters: dict[str, _Waiter] = {}
        self._requests: dict[int, str] = {}
        self._look_ups: dict[int, LookUp] = {}
        self._drops: list[int] = []
        self.loading_steps: deque[tuple[int, int]] = deque()
        """Steps, and the attempts that load in them."""

    def asked(
        self,
        request: str,
        prompt: Callable[[], Prompt],
        have_tokens: int,
        prompt_tokens: int,
        now: float,
        *,
        generation: int = 0,
        alone: bool = False,
    ) -> Answer:
        """What may be loaded of a request's `prompt_tokens`, of which vLLM has the first `have_tokens`.

        `prompt` is called only for a look-up. `generation` changes when the request is preempted. `alone`: no other
        request would wait with it.
        """
        waiter = self._waiters.get(request)
        if waiter is None or waiter.generation != generation:
            if waiter is not None:
                self._end(waiter)
            waiter = self._waiters[request] = _Waiter(generation)
        waiter.asked_with = have_tokens
        waiter.answer = None
        if waiter.attempt is None:
            if waiter.attempts:
                return NOTHING
            return self._look_up(waiter, request, prompt, have_tokens, prompt_tokens, now)
        attempt = waiter.attempt
        if have_tokens < attempt.have_tokens:
            self._close(waiter, "computed_lost")
            return self._look_up(waiter, request, prompt, have_tokens, prompt_tokens, now)
        tokens = attempt.tokens
        if tokens is not None:
            if tokens - have_tokens < max(1, self.options.min_tokens):
                return self._closed(waiter, "covered" if have_tokens > attempt.have_tokens else "too_little")
            parked = self._admission(attempt, now, alone)
            if parked is not None:
                waiter.answer = Answer(tokens - have_tokens, parked)
                return waiter.answer
        if now - attempt.news_at >= self.options.deadline_s:
            return self._closed(waiter, "late")
        return LATER

    def allocated(self, request: str, external_tokens: int, step: int) -> Admitted | None:
        """vLLM gave blocks to the request, for as many of the announced tokens. None: nothing is to be loaded."""
        waiter = self._waiters.get(request)
        if waiter is None or waiter.attempt is None or waiter.loading is not None:
            return None
        attempt, answer = waiter.attempt, waiter.answer
        if not external_tokens or answer is None or not answer.tokens:
            self._close(waiter, "not_taken")
            return None
        stop = waiter.asked_with + external_tokens
        waiter.loading = Admitted(attempt.number, waiter.asked_with, stop, answer.parked, attempt.staged)
        if not answer.parked:
            self.loading_steps.append((step, attempt.number))
        self._counters["hits"] += 1
        self._counters["hit_tokens"] += external_tokens
        return waiter.loading

    def told(self, report: Report, now: float) -> None:
        """What the workers say of attempts; of those that are over they may say more."""
        for number, said in report.progress.items():
            waiter = self._waiters.get(self._requests.get(number, ""))
            if waiter is None or waiter.attempt is None or waiter.loading is not None:
                continue
            waiter.attempt.told(said, self.options.ranks, now)
            over = waiter.attempt.over
            if over is not None:
                self._close(waiter, _reason(over))
            elif waiter.attempt.tokens == 0:
                self._close(waiter, "unequal")

    def load_of(self, attempt: int) -> tuple[str, Admitted] | None:
        """The request and the load of an attempt that is loading."""
        request = self._requests.get(attempt)
        waiter = None if request is None else self._waiters.get(request)
        return None if request is None or waiter is None or waiter.loading is None else (request, waiter.loading)

    def loaded(self, step: int) -> None:
        """The loads of all steps up to `step` are over, except those beside them."""
        while self.loading_steps and self.loading_steps[0][0] <= step:
            _, attempt = self.loading_steps.popleft()
            waiter = self._waiters.get(self._requests.get(attempt, ""))
            if waiter is not None:
                self._forget(waiter)

    def unparked(self, request: str) -> None:
        """A load beside the steps is over, whether it came or failed."""
        waiter = self._waiters.get(request)
        if waiter is not None and waiter.loading is not None and waiter.loading.parked:
            self._forget(waiter)

    def finished(self, request: str) -> None:
        """It ended, in whatever state."""
        waiter = self._waiters.pop(request, None)
        if waiter is not None:
            self._end(waiter)

    def reset(self) -> None:
        """What is fetched is not wanted any more: requests that wait are looked up anew."""
        for request, waiter in list(self._waiters.items()):
            if waiter.loading is None:
                self._end(waiter)
                del self._waiters[request]

    def take(self) -> tuple[tuple[LookUp, ...], tuple[int, ...]]:
        """Look-ups and drops that the workers do not know of yet."""
        if not (self._look_ups or self._drops):
            return (), ()
        look_ups, drops = tuple(self._look_ups.values()), tuple(self._drops)
        self._look_ups.clear()
        self._drops.clear()
        return look_ups, drops

    @property
    def untold(self) -> bool:
        """There are drops that the workers do not know of."""
        return bool(self._drops)

    def _look_up(
        self,
        waiter: _Waiter,
        request: str,
        prompt: Callable[[], Prompt],
        have_tokens: int,
        prompt_tokens: int,
        now: float,
    ) -> Answer:
        options = self.options
        limit = prompt_tokens - 1
        limit -= limit % options.aligned_tokens
        if waiter.attempts >= ATTEMPTS:
            return NOTHING
        if limit - have_tokens < max(1, options.min_tokens):
            self._counters["too_short"] += 1
            waiter.attempts = ATTEMPTS
            return NOTHING
        waiter.attempts += 1
        number = next(self._numbers)
        waiter.attempt = Attempt(number, request, have_tokens, limit, options.aligned_tokens, now)
        self._requests[number] = request
        self._look_ups[number] = LookUp(
            number, request, prompt(), have_tokens, prompt_tokens, options.step_tokens, options.deadline_s
        )
        self._counters["look_ups"] += 1
        return LATER

    def _admission(self, attempt: Attempt, now: float, alone: bool) -> bool | None:
        """Whether the request is parked; None: it does not run yet."""
        mode, safe = self.options.mode, self.options.layerwise_safe
        if not (attempt.staged or safe):
            return None
        if mode is AdmissionMode.WHOLE:
            return True
        if attempt.staged or mode is AdmissionMode.AT_ONCE:
            return False
        return False if attempt.arriving and (alone or attempt.fits(now)) else None

    def _closed(self, waiter: _Waiter, reason: str) -> Answer:
        self._close(waiter, reason)
        return NOTHING

    def _close(self, waiter: _Waiter, reason: str) -> None:
        self._counters[reason] += 1
        self._end(waiter)

    def _end(self, waiter: _Waiter) -> None:
        attempt = waiter.attempt
        if attempt is None:
            return
        if self._look_ups.pop(attempt.number, None) is None:
            self._drops.append(attempt.number)
        self._forget(waiter)

    def _forget(self, waiter: _Waiter) -> None:
        if waiter.attempt is not None:
            del self._requests[waiter.attempt.number]
        waiter.attempt = waiter.loading = waiter.answer = None


def _reason(over: Progress) -> str:
    word = "missed" if over.stage is Stage.MISSED else "failed"
    return f"{word}:{over.reason}" if over.reason else word
