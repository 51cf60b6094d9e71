"""When each layer was requested, landed, copied, waited for and computed: milliseconds from a run's start."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

_CUDA: Any = torch.cuda  # untyped

Moment = Any
"""A torch.cuda.Event, or seconds of time.perf_counter where there are no streams."""


@dataclass
class Timeline:
    """Lists have one entry a layer; those that a path does not have stay empty."""

    matched_ms: float | None = None
    answered_ms: float | None = None
    sent_ms: list[float] = field(default_factory=list)
    landed_ms: list[float] = field(default_factory=list)
    copied_ms: list[float] = field(default_factory=list)
    waited_from_ms: list[float] = field(default_factory=list)
    waited_until_ms: list[float] = field(default_factory=list)
    needed_ms: list[float] = field(default_factory=list)
    computed_ms: list[float] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        def rounded(value: Any) -> Any:
            return [round(each, 3) for each in value] if isinstance(value, list) else round(value, 3)

        return {name: rounded(value) for name, value in vars(self).items() if value not in (None, [])}


class Recorder:
    """Marks of one run, on the host's clock and, through events, on the device's."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._base = self._mark()
        self.start_s = time.perf_counter()
        self.timeline = Timeline()
        self._needed: list[Moment] = []
        self._computed: list[Moment] = []

    def _mark(self) -> Moment:
        if not self.on_device:
            return time.perf_counter()
        event = _CUDA.Event(enable_timing=True)
        event.record()
        return event

    @property
    def on_device(self) -> bool:
        """Whether there are events to be asked."""
        return self._device.type == "cuda"

    def now_ms(self) -> float:
        return (time.perf_counter() - self.start_s) * 1e3

    def since_start_ms(self, moment_s: float) -> float:
        return (moment_s - self.start_s) * 1e3

    def waiting(self, wait: Callable[[int], None]) -> Callable[[int], None]:
        """`wait`, with its beginning and end marked on the host, and the moment on the device behind it."""

        def marked(layer: int) -> None:
            self.timeline.waited_from_ms.append(self.now_ms())
            wait(layer)
            self.timeline.waited_until_ms.append(self.now_ms())
            self._needed.append(self._mark())

        return marked

    def computed(self, layer: int) -> None:
        self._computed.append(self._mark())

    def placed(self, moments: Sequence[Moment]) -> None:
        """When each layer was in its place, as the device tells. After it has caught up."""
        self.timeline.copied_ms = [self._since(moment) for moment in moments]

    def finish(self) -> Timeline:
        """After the device has caught up."""
        timeline = self.timeline
        timeline.needed_ms = [self._since(moment) for moment in self._needed]
        timeline.computed_ms = [self._since(moment) for moment in self._computed]
        return timeline

    def _since(self, moment: Moment) -> float:
        if not self.on_device:
            return self.since_start_ms(moment)
        elapsed: float = self._base.elapsed_time(moment)
        return elapsed
