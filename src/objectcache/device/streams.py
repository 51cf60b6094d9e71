"""Streams and events where there are some; on the CPU everything is done when the call returns."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from objectcache.device.pinning import PINNED
from objectcache.device.strided import StridedCopy, copy_to_device
from objectcache.errors import NotSupportedError

_CUDA: Any = torch.cuda  # untyped

Event = Any
"""A torch.cuda.Event; None on the CPU, where what came before is done."""


class Lane:
    """A stream of its own. `high` makes its kernels go before those of ordinary streams."""

    def __init__(self, device: torch.device, *, high: bool = False) -> None:
        """Raises NotSupportedError for devices other than CPUs and CUDA's."""
        if device.type not in ("cpu", "cuda"):
            raise NotSupportedError(f"KV is moved to and from CPUs and CUDA devices, not {device}")
        self._stream: Any = None
        if device.type == "cuda":
            self._stream = _CUDA.Stream(device, priority=-1 if high else 0)

    def __call__(self) -> AbstractContextManager[Any]:
        """Work inside is queued here."""
        return nullcontext() if self._stream is None else _CUDA.stream(self._stream)

    def copy(self, copies: Sequence[StridedCopy], source: torch.Tensor) -> None:
        """Queue copies of `source`, slices in host memory; the device is the current one. Raises DeliveryError."""
        address = source.data_ptr()
        copy_to_device(copies, address, self._stream, pinned=PINNED.holds(address, source.nbytes))

    def wait(self, event: Event) -> None:
        """What is queued from here on begins after `event`. The host waits for nothing."""
        if self._stream is not None and event is not None:
            self._stream.wait_event(event)

    def mark(self, event: Event = None) -> Event:
        """The moment when all that is queued here so far is done. A given event is used again."""
        if self._stream is None:
            return None
        event = event or new_event()
        event.record(self._stream)
        return event


def exact_device(device: torch.device | str) -> torch.device:
    """`device` with its number, as tensors name it."""
    found = torch.device(device)
    return torch.device("cuda", _CUDA.current_device()) if found.type == "cuda" and found.index is None else found


def make_current(device: torch.device) -> None:
    """For what the calling thread does from here on: CUDA would else make a context on another device for it."""
    if device.type == "cuda":
        _CUDA.set_device(device)


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """As `make_current`, inside."""
    return _CUDA.device(device) if device.type == "cuda" else nullcontext()


def new_event() -> Event:
    """One that lets a waiting thread of the host sleep instead of spin."""
    return _CUDA.Event(blocking=True)


def timed_event() -> Event:
    """One that tells how long after another one it came."""
    return _CUDA.Event(enable_timing=True, blocking=True)


def current_mark(device: torch.device, stream: Any = None) -> Event:
    """The moment when all that is queued in `stream` (default: the calling thread's current one) so far is done."""
    if device.type != "cuda":
        return None
    event = new_event()
    event.record(stream or _CUDA.current_stream(device))
    return event


def current_wait(device: torch.device, event: Event, stream: Any = None) -> None:
    """What is queued in `stream` (default: the current one) from here on begins after `event`."""
    if event is not None:
        (stream or _CUDA.current_stream(device)).wait_event(event)


def host_wait(event: Event) -> None:
    """Return when `event` has come, without the interpreter lock."""
    if event is not None:
        event.synchronize()
