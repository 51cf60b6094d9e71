"""One look-up and what became of it, on one rank: what the engine's thread and the look-up threads share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import inf
from time import perf_counter

from objectcache.cache.base import Match
from objectcache.cache.retrieval import Retrieval
from objectcache.connectors.vllm.messages import LookUp, Progress, Stage
from objectcache.connectors.vllm.worker.counters import Outcome
from objectcache.scheduling.giving_up import LoadGuard
from objectcache.scheduling.pipeline import arrivals_s, latest_begin_s

SAY_AGAIN_S = 0.02
WORTH_TELLING = 0.2
"""Of a time to fit, or of a window: what has changed by less is not said again."""
_OBSERVED_S = 0.005
"""After so long what came says more than what was promised."""


class Watch:
    """Whether something that comes in bytes still does."""

    def __init__(self, now_s: float) -> None:
        self._bytes = -1
        self._since_s = now_s

    def stalled_s(self, arrived_bytes: int, now_s: float) -> float:
        """For how long nothing has come."""
        if arrived_bytes != self._bytes:
            self._bytes, self._since_s = arrived_bytes, now_s
        return now_s - self._since_s


@dataclass(slots=True)
class Fetch:
    """A transfer into staging: of what, and what was told and promised of it. `room_bytes` are its staging memory."""

    match: Match
    retrieval: Retrieval
    room_bytes: int
    window_s: float | None = None
    rate_bytes_s: float = inf
    first_byte_s: float = 0.0
    guard: LoadGuard | None = None
    watch: Watch = field(default_factory=lambda: Watch(perf_counter()))
    settled: bool = False  # how it turned out is known

    @property
    def layers(self) -> Sequence[int]:
        return self.retrieval.geometry.order

    def fits_in_s(self, now_s: float) -> float | None:
        """Until the rest comes within the windows of the step that needs it. None: nobody knows."""
        retrieval = self.retrieval
        if retrieval.complete:
            return 0.0
        arrived, took_s = retrieval.arrived_bytes(), now_s - retrieval.requested_s
        rate = self.rate_bytes_s if retrieval.rate_bytes_s is None else retrieval.rate_bytes_s
        if rate == inf and not arrived:
            return None
        still_s = self.watch.stalled_s(arrived, now_s)
        came_s = took_s - self.first_byte_s - still_s
        if arrived and came_s > 0 and took_s > self.first_byte_s + _OBSERVED_S:
            arrived, rate = self._by_now(arrived, came_s, still_s)
        missing, left = [], arrived
        for size in retrieval.geometry.unit_bytes:
            missing.append(max(0, size - left))
            left = max(0, left - size)
        first_byte_s = 0.0 if arrived else max(0.0, self.first_byte_s - took_s)
        window_s = self.window_s or 0.0
        windows = [window_s * len(layers) for layers in retrieval.geometry.units]
        return latest_begin_s(arrivals_s(missing, rate, first_byte_s=first_byte_s), windows)

    def _by_now(self, arrived: int, came_s: float, still_s: float) -> tuple[int, float]:
        """How much there must be by now, and the rate: where whole layers are counted, `arrived` was so much `still_s`
        ago already."""
        rate = arrived / came_s
        next_end = next((end for end in accumulate(self.retrieval.geometry.unit_bytes) if end > arrived), arrived)
        if arrived + rate * still_s <= next_end:
            return int(arrived + rate * still_s), rate
        return next_end, next_end / (came_s + still_s)  # it cannot be faster than if that were there just now

    def correct(self, window_s: float | None, asked_s: float) -> None:
        """Layers take `window_s` (None: as was told), the first was asked for `asked_s` ago. Takes microseconds."""
        told_s = self.window_s
        if self.retrieval.complete or (window_s is None and told_s is None):
            return
        if window_s is not None:
            if told_s is not None and abs(window_s - told_s) <= WORTH_TELLING * told_s:
                return
            self.window_s = window_s
        self.retrieval.correct_windows((self.window_s or 0.0,) * len(self.layers), -asked_s)


class Attempt:
    """`stage` None: in line, or being looked up. Whoever holds the lock of all attempts changes it."""

    def __init__(self, order: LookUp, epoch: int, none_hash: bytes, now_s: float) -> None:
        self.order = order
        self.epoch = epoch
        self.none_hash = none_hash
        self.until_s = now_s + order.seconds
        self.begun_s: float | None = None
        """When a thread asked for something that has not been answered yet."""
        self.stage: Stage | None = None
        self.outcome: Outcome | None = None
        self.fetch: Fetch | None = None
        self.over = False
        """Nobody wants to know: what is found is given back."""
        self._said: Progress | None = None
        self._said_s = 0.0

    @property
    def ended(self) -> bool:
        return self.stage in (Stage.MISSED, Stage.FAILED)

    def news(self, now_s: float) -> Progress | None:
        """What has to be said that was not said yet."""
        if self.stage is None:
            return None
        said, fetch = self._said, self.fetch
        if self.stage is not Stage.FETCHING or fetch is None:
            if said is not None and said.stage is self.stage:
                return None
            tokens = boundary = 0
            if self.stage is Stage.STAGED and fetch is not None:
                tokens, boundary = fetch.match.tokens, fetch.match.boundary_tokens
            fits_in_s = 0.0 if tokens else None
            return self._say(Progress(self.stage, tokens, boundary, fits_in_s, self.outcome or ""), now_s)
        fits_in_s = fetch.fits_in_s(now_s)
        if said is not None and now_s - self._said_s < SAY_AGAIN_S and not self._changed(said, fits_in_s, now_s):
            return None
        match, arrived_bytes = fetch.match, fetch.retrieval.arrived_bytes()
        progress = Progress(Stage.FETCHING, match.tokens, match.boundary_tokens, fits_in_s, arrived_bytes=arrived_bytes)
        return self._say(progress, now_s)

    def _changed(self, said: Progress, fits_in_s: float | None, now_s: float) -> bool:
        """Whether it fits at another time than was said, by much."""
        if said.fits_in_s is None or fits_in_s is None:
            return said.fits_in_s is not fits_in_s
        expected_s = max(0.0, said.fits_in_s - (now_s - self._said_s))
        return abs(fits_in_s - expected_s) > max(WORTH_TELLING * expected_s, 1e-3)

    def _say(self, progress: Progress, now_s: float) -> Progress:
        self._said, self._said_s = progress, now_s
        return progress
