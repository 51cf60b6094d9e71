"""How long a forward computes at each layer, seen from where it comes for the layers' KV. Waits do not count."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

import torch


class Marks(Protocol):
    """Moments in what a model computes."""

    def now(self) -> Any: ...

    def passed(self, mark: Any) -> bool:
        """Whether `seconds` may be asked for it."""

    def settle(self, mark: Any) -> None:
        """Wait until it has passed."""

    def seconds(self, begin: Any, end: Any) -> float: ...


class HostMarks:
    """On the CPU: the host's clock."""

    def now(self) -> float:
        return time.perf_counter()

    def passed(self, mark: float) -> bool:
        return True

    def settle(self, mark: float) -> None:
        pass

    def seconds(self, begin: float, end: float) -> float:
        return end - begin


class DeviceMarks:
    """On a CUDA device, whose host is ahead of it: events on the stream that computes."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def now(self) -> Any:
        mark: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        mark.record(torch.cuda.current_stream(self._device))
        return mark

    def passed(self, mark: Any) -> bool:
        return bool(mark.query())

    def settle(self, mark: Any) -> None:
        mark.synchronize()

    def seconds(self, begin: Any, end: Any) -> float:
        return float(begin.elapsed_time(end)) / 1e3


def marks_of(device: torch.device) -> Marks:
    return DeviceMarks(device) if device.type == "cuda" else HostMarks()


@dataclass(frozen=True, slots=True)
class Step:
    """`tokens` computed behind `context`, with the windows of all layers but the last. `ended_s` is when the last
    layer's compute must have ended, since the request for the prefix; `first` is the request's first step."""

    tokens: int
    context: int
    windows_s: tuple[float, ...]
    ended_s: float
    first: bool

    @property
    def window_s(self) -> float:
        return median(self.windows_s)


class StepClock:
    """The steps of one sequence. `asked` and `left` are called around what a layer does with its KV."""

    def __init__(
        self,
        num_layers: int,
        marks: Marks,
        on_step: Callable[[Callable[[], Step]], None],
        on_window: Callable[[float, float], None] = lambda window_s, asked_s: None,
        begin: Any = None,
    ) -> None:
        """`on_step(read)` is called when a step is over for the host; `read` may wait for the device.
        `on_window(window_s, asked_s)` is called a few times during the first step: what a layer takes, as far as is
        known, and how long ago the first was asked for. `begin` is when the request began (default: now)."""
        self._num_layers = num_layers
        self._marks = marks
        self._on_step = on_step
        self._on_window = on_window
        self.begin = marks.now() if begin is None else begin
        self._asked: list[Any] = []
        self._left: list[Any] = []
        self._asked_s = 0.0
        self._steps = 0
        self._tokens = self._context = 0

    def asked(self, layer: int, tokens: int, context: int) -> None:
        """The forward comes to `layer` with `tokens` new ones behind `context`."""
        if layer == 0:
            self._asked, self._left = [], []
            self._tokens, self._context = tokens, context
            self._asked_s = time.perf_counter()
        # Decoding, token by token, says little and would cost each of them.
        if len(self._asked) == layer and (tokens > 1 or not self._steps):
            self._asked.append(self._marks.now())

    def left(self, layer: int) -> None:
        """It has what it came for, and computes."""
        if len(self._asked) != layer + 1 or len(self._left) != layer:
            return
        self._left.append(self._marks.now())
        layers = layer + 1
        if layers == self._num_layers:
            self._over()
        elif not self._steps and (layers == 3 or (layers > 4 and layers & (layers - 1) == 0)):
            windows = self._windows(self._asked, self._left)
            if windows:
                self._on_window(median(windows), time.perf_counter() - self._asked_s)

    def _windows(self, asked: list[Any], left: list[Any]) -> list[float]:
        pairs = zip(left, asked[1:], strict=False)
        return [self._marks.seconds(begin, end) for begin, end in pairs if self._marks.passed(end)]

    def _over(self) -> None:
        asked, left, first = self._asked, self._left, not self._steps
        tokens, context = self._tokens, self._context
        self._asked, self._left = [], []
        self._steps += 1

        def read() -> Step:
            self._marks.settle(left[-1])
            windows = self._windows(asked, left)
            ended_s = self._marks.seconds(self.begin, left[-1]) + (median(windows) if windows else 0.0)
            return Step(tokens, context, tuple(windows), ended_s, first)

        self._on_step(read)
