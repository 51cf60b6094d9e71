"""Streams on the CPU that are as late as streams may be: what is queued runs in any order that events allow."""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from objectcache.device.strided import StridedCopy
from tests.device.caches import copy_rows

_DEFERRED = {torch.ops.aten.copy_.default, torch.ops.aten.index_put_.default, torch.ops.aten.index.Tensor_out}


class LateEvent:
    def __init__(self) -> None:
        self.due = 0
        self.come = 0


class LateStream:
    """A lane: what writes tensors inside `with stream():` is queued, everything else is done at once."""

    def __init__(self, world: LateWorld) -> None:
        self.world = world
        self.queue: deque[Callable[[], bool]] = deque()  # each says whether it could be done

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with _Recorder(self):
            yield

    def submit(self, work: Callable[[], object]) -> None:
        def run() -> bool:
            work()
            return True

        with self.world.lock:
            self.queue.append(run)

    def copy(self, copies: Sequence[StridedCopy], source: torch.Tensor) -> None:
        self.submit(lambda: copy_rows(copies, source.data_ptr()))

    def wait(self, event: LateEvent | None) -> None:
        if event is not None:
            with self.world.lock:
                due = event.due
                self.queue.append(lambda: event.come >= due)

    def mark(self, event: LateEvent | None = None) -> LateEvent:
        marked = event or LateEvent()
        with self.world.lock:
            marked.due += 1
            number = marked.due

        def come() -> None:
            marked.come = number

        self.submit(come)
        return marked


class LateWorld:
    """All streams. Nothing runs before the host waits for an event, and then no more than has to, in random order."""

    def __init__(self, seed: int) -> None:
        self.lock = threading.RLock()
        self.streams: list[LateStream] = []
        self._random = random.Random(seed)
        self.compute = self.stream()

    def stream(self, *_: Any, **__: Any) -> LateStream:
        with self.lock:
            self.streams.append(LateStream(self))
            return self.streams[-1]

    def host_wait(self, event: LateEvent | None) -> None:
        if event is None:
            return
        with self.lock:
            due = event.due
            while event.come < due:
                self.step()

    def step(self) -> None:
        with torch.inference_mode():
            for stream in self._random.sample(self.streams, len(self.streams)):
                if stream.queue and stream.queue[0]():
                    stream.queue.popleft()
                    return
        raise AssertionError("streams wait for each other for ever")

    def finish(self) -> None:
        with self.lock:
            while any(stream.queue for stream in self.streams):
                self.step()

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Have objectcache.device use these streams, and `compute` as everybody's current one."""
        for module in ("queueing", "saving"):
            patch.setattr(f"objectcache.device.{module}.Lane", self.stream)
        for module in ("loading", "saving"):
            patch.setattr(f"objectcache.device.{module}.current_mark", lambda *_: self.compute.mark())
        for module in ("ahead", "loading"):
            patch.setattr(
                f"objectcache.device.{module}.current_wait", lambda _, event, __=None: self.compute.wait(event)
            )
        for module in ("ahead", "loading", "queueing", "saving", "staging"):
            patch.setattr(f"objectcache.device.{module}.host_wait", self.host_wait)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, stream: LateStream) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._stream = stream

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in _DEFERRED:
            return func(*args, **(kwargs or {}))
        self._stream.submit(lambda: func(*args, **(kwargs or {})))
        return kwargs["out"] if kwargs and "out" in kwargs else args[0]
