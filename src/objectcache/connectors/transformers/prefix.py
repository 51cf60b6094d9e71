"""The transformers cache whose prefix is still on its way when the forward begins."""

from __future__ import annotations

import weakref
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
from transformers.cache_utils import Cache, DynamicLayer

from objectcache.connectors.background import BackgroundThread
from objectcache.connectors.steps import StepClock
from objectcache.connectors.transformers.deciding import Decision
from objectcache.connectors.transformers.delivery import Delivery, LayerTiming, PrefixLoadError
from objectcache.connectors.transformers.recording import Recording
from objectcache.errors import ObjectCacheError


class PrefixLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """A DynamicLayer that knows how long its prefix is before it is there, and waits for it in its first `update`."""

    def __init__(self, index: int, delivery: Delivery | None, recording: Recording | None, clock: StepClock) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._index = index
        self._clock = clock
        self._delivery = delivery
        self._recording = recording

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self._clock.asked(self._index, key_states.shape[2], self.get_seq_length())
        if self._delivery is None:
            keys, values = super().update(key_states, value_states, *args, **kwargs)
        else:
            keys, values = self._adopt(key_states, value_states)
        recording = self._recording
        if recording is not None and keys.shape[2] >= recording.stop_token:
            recording.offer(self._index, keys, values)
            self._recording = None
        self._clock.left(self._index)
        return keys, values

    def get_seq_length(self) -> int:
        if self._delivery is not None:
            return self._delivery.match.tokens
        return int(super().get_seq_length())

    def _adopt(self, key_states: torch.Tensor, value_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The prefix and, behind it, the new states: written once, where a concatenation would copy all of it again."""
        if key_states.shape[0] != 1:
            raise PrefixLoadError(
                f"a stored prefix serves a batch of 1, not {key_states.shape[0]}: no beams, no batches"
            )
        room = key_states.shape[2]
        self._settle(room, key_states.device)
        assert self.keys is not None
        assert self.values is not None
        self.keys[:, :, -room:] = key_states
        self.values[:, :, -room:] = value_states
        return self.keys, self.values

    def _settle(self, room: int = 0, device: torch.device | None = None) -> None:
        """Have the prefix here, on `device` (default: wherever), with `room` more tokens for the caller to fill."""
        if self._delivery is not None:
            self.keys, self.values = self._delivery.take(self._index, room, device)
            self.dtype, self.device = self.keys.dtype, self.keys.device
            self.is_initialized = True
            self._delivery = None

    # What rearranges a cache needs its data, and makes it another sequence than the one being recorded.

    def crop(self, *args: Any, **kwargs: Any) -> None:
        self._settle()
        self._recording = None
        super().crop(*args, **kwargs)

    def reorder_cache(self, *args: Any, **kwargs: Any) -> None:
        self._settle()
        super().reorder_cache(*args, **kwargs)

    def batch_repeat_interleave(self, *args: Any, **kwargs: Any) -> None:
        self._settle()
        super().batch_repeat_interleave(*args, **kwargs)

    def batch_select_indices(self, *args: Any, **kwargs: Any) -> None:
        self._settle()
        super().batch_select_indices(*args, **kwargs)

    def reset(self) -> None:
        # Not by zeroing in place, as some versions do: the recording may still be reading.
        self._delivery = self._recording = None
        self.keys = self.values = None
        self.is_initialized = False


class PrefixCache(Cache):
    """What a connector's `load` returns: pass it (`cache_input`) to a forward over the tail, or to `generate`.

    Layers are waited for one by one, as the forward reaches them. Leaving the context (or `commit`) stores what the
    forward added, when that was asked for; on an exception nothing is stored. `close` ends what is still under way.
    """

    def __init__(
        self,
        num_layers: int,
        *,
        decision: Decision,
        clock: StepClock,
        delivery: Delivery | None = None,
        recording: Recording | None = None,
        error: ObjectCacheError | None = None,
        background: BackgroundThread,
    ) -> None:
        """`error` is why a look-up was given up, when that makes this a miss; `clock` is told of its layers."""
        super().__init__(layers=[PrefixLayer(index, delivery, recording, clock) for index in range(num_layers)])
        self.decision, self.clock = decision, clock
        self.recording = recording
        self.matched_tokens = 0 if delivery is None else delivery.match.tokens
        self.matched_bytes = 0 if delivery is None else delivery.match.payload_bytes
        self._delivery = delivery
        self._lookup_error = error
        # For a cache that is dropped without `close`; not at exit, when the thread is gone.
        weakref.finalize(self, background.submit, partial(_end, delivery, recording)).atexit = False

    def tail(self, input_ids: torch.Tensor) -> torch.Tensor:
        """The part of a prompt, [1, tokens], that is left to compute: at least one token."""
        return input_ids[:, self.matched_tokens :]

    @property
    def error(self) -> ObjectCacheError | None:
        """Why the look-up was given up, or the delivery failed; None if nothing did."""
        return self._lookup_error if self._delivery is None else self._delivery.error

    @property
    def timings(self) -> tuple[LayerTiming, ...]:
        """Of the layers taken so far, in that order."""
        return () if self._delivery is None else tuple(self._delivery.timings)

    def commit(self) -> None:
        """The forward was clean: what it added may become visible."""
        if self.recording is not None:
            self.recording.commit()

    def close(self) -> None:
        """Done with the delivery, whether or not all of it was used. Stores nothing that was not committed."""
        _end(self._delivery, self.recording)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.commit()
        self.close()


def _end(delivery: Delivery | None, recording: Recording | None) -> None:
    if recording is not None:
        recording.abort()
    if delivery is not None:
        delivery.close()
