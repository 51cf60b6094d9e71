"""A load beside other requests' decoding: what a request's admission does to its own first token, and to their tokens.

The engine computes steps, one token of every request that decodes in each; the step that takes the new request computes
its tail as well, and all wait for the end of it. Look-up and transfer run beside: the request is admitted either as
soon as its load is under way, so that its step waits for each layer, or when the rest of it fits the step's windows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from objectcache.bench.result import Row, percentile, sample_row
from objectcache.bench.ttft.paths import Through
from objectcache.bench.ttft.settings import DECODED_TOKENS, Cell
from objectcache.bench.ttft.timeline import Recorder
from objectcache.bench.ttft.world import World
from objectcache.errors import ObjectCacheError

AT_ONCE = "at once"
JUST_IN_TIME = "just in time"
ADMISSIONS = (AT_ONCE, JUST_IN_TIME)
_ALONE_STEPS = 8
"""Of decoding alone before the request comes, and after it has its first token."""


@dataclass(frozen=True)
class Mixed:
    """`gap_ms` are times between tokens of those that decode, from the request to its first token; `alone_ms` without
    it. `logits` are the request's."""

    ttft_ms: float
    gap_ms: list[float]
    alone_ms: list[float]
    logits: torch.Tensor


class Decodes:
    """Requests that decode beside: all are of the same length, and others take their place when they are long."""

    def __init__(self, world: World) -> None:
        settings, kv = world.settings, world.shape
        sizes = (2, settings.decodes, settings.decode_context + DECODED_TOKENS, kv.num_kv_heads, kv.head_dim)
        self._world = world
        self._caches = [torch.zeros(sizes, dtype=world.model.dtype, device=world.device) for _ in range(kv.num_layers)]
        self._tokens = torch.arange(settings.decodes, device=world.device)
        self._first = self._position = settings.decode_context

    def step(self) -> None:
        """Queue one token of each."""
        self._tokens = self._world.model.decode(self._caches, self._tokens, self._position)
        self._position += 1
        if self._position == self._first + DECODED_TOKENS:
            self._position = self._first

    def emit(self) -> None:
        """The tokens of the last step are on the host."""
        self._tokens.tolist()


class _Load:
    """Look-up and answer in a thread of its own, as connectors have it."""

    def __init__(self, path: Through, recorder: Recorder) -> None:
        self.tokens = 0
        self.error: ObjectCacheError | None = None
        self._thread = threading.Thread(target=self._run, args=(path, recorder))
        self._thread.start()

    def _run(self, path: Through, recorder: Recorder) -> None:
        try:
            self.tokens = path.begin(recorder)
        except ObjectCacheError as error:
            self.error = error

    @property
    def under_way(self) -> bool:
        """Raises ObjectCacheError."""
        if self._thread.is_alive():
            return False
        self._thread.join()
        if self.error is not None:
            raise self.error
        return True


def fits(now_s: float, begun_s: float, landed_s: Sequence[float], windows_s: Sequence[float]) -> bool:
    """Whether a step that began now would wait for no layer, if those that are missing come as those before did.

    `begun_s` is when the transfer began, `landed_s` when its first layers landed, one after the other.
    """
    count = len(landed_s)
    if not count:
        return False
    layer_s = (landed_s[-1] - begun_s) / count
    next_s = max(landed_s[-1] + layer_s, now_s)
    asked_s = now_s
    for layer, window_s in enumerate(windows_s):
        if layer >= count and next_s + (layer - count) * layer_s > asked_s:
            return False
        asked_s += window_s
    return True


def _fits(path: Through, recorder: Recorder, windows_s: Sequence[float]) -> bool:
    begun_ms = recorder.timeline.answered_ms
    assert begun_ms is not None, "a load is under way"
    return fits(time.perf_counter(), recorder.start_s + begun_ms / 1e3, path.landed_s(), windows_s)


def measure_mixed(world: World, path: Through, windows_s: Sequence[float], runs: int) -> dict[str, list[Mixed]]:
    """Both kinds of admission, in turn; each has been warm once. Raises ObjectCacheError."""
    decodes = Decodes(world)
    found: dict[str, list[Mixed]] = {admission: [] for admission in ADMISSIONS}
    for index in range(runs + 1):
        for admission in ADMISSIONS:
            run = _run(world, path, decodes, () if admission == AT_ONCE else windows_s)
            if index:
                found[admission].append(run)
    return found


def _run(world: World, path: Through, decodes: Decodes, windows_s: Sequence[float]) -> Mixed:
    """With windows, the request waits until its rest fits them."""
    world.put_prefix(path.cell, there=False)
    path.prepare()
    alone_ms = [_step_ms(decodes) for _ in range(_ALONE_STEPS)]
    recorder = Recorder(world.device)
    load = _Load(path, recorder)
    gap_ms = []
    while not (load.under_way and (not windows_s or path.is_over or _fits(path, recorder, windows_s))):
        gap_ms.append(_step_ms(decodes))
    begun_s = time.perf_counter()
    decodes.step()
    logits = path.compute(recorder, path.wait, first=load.tokens)
    decodes.emit()
    int(logits.argmax())
    ttft_ms = recorder.now_ms()
    gap_ms.append((time.perf_counter() - begun_s) * 1e3)
    world.sync()
    recorder.finish()
    path.finish(recorder)
    alone_ms += [_step_ms(decodes) for _ in range(_ALONE_STEPS)]
    return Mixed(ttft_ms, gap_ms, alone_ms, logits)


def _step_ms(decodes: Decodes) -> float:
    begun_s = time.perf_counter()
    decodes.step()
    decodes.emit()
    return (time.perf_counter() - begun_s) * 1e3


def mixed_rows(cell: Cell, found: dict[str, list[Mixed]], right: torch.Tensor) -> list[Row]:
    """A row for each admission: TTFT, and the gaps between the others' tokens meanwhile and alone."""
    rows = []
    for admission, runs in found.items():
        gap_ms = [gap for run in runs for gap in run.gap_ms]
        alone_ms = [gap for run in runs for gap in run.alone_ms]
        rows.append(
            sample_row(
                f"{cell.name}, beside decodes: {admission}",
                "ms",
                [round(run.ttft_ms, 3) for run in runs],
                context=cell.context,
                hit=cell.hit,
                cap_gbps=cell.gbps,
                target=cell.target,
                store=cell.stored,
                admission=admission,
                gap_p50_ms=percentile(gap_ms, 50),
                gap_p99_ms=percentile(gap_ms, 99),
                gap_max_ms=max(gap_ms),
                gaps=len(gap_ms),
                alone_p50_ms=percentile(alone_ms, 50),
                alone_p99_ms=percentile(alone_ms, 99),
                logits_equal=all(torch.equal(run.logits, right) for run in runs),
            )
        )
    return rows
