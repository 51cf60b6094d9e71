"""A retrieval that a forward takes layer by layer: waits for them, and when the load is given up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import torch

from objectcache.cache.base import Match
from objectcache.cache.retrieval import Retrieval
from objectcache.connectors.transformers.accelerator import LayersAhead, loader_of
from objectcache.connectors.transformers.slices import KVShape, from_slices
from objectcache.errors import DeliveryCancelledError, DeliveryError, DeliveryTimeoutError, ObjectCacheError
from objectcache.scheduling.giving_up import LoadGuard
from objectcache.storing.handle import as_cache_error

_WORTH_TELLING = 0.2
_LOOK_S = 0.05


class PrefixLoadError(DeliveryError):
    """A layer of the prefix failed or is late, and the forward that needs it cannot go on: run it without the prefix.

    `__cause__` says why.
    """


@dataclass(frozen=True, slots=True)
class LayerTiming:
    """When things happened to one layer, in seconds on time.perf_counter.

    The delivery was `requested_s`, the layer `landed_s`; the forward came for it at `asked_s`, stood for `waited_s`,
    and had copied it at `adopted_s`.
    """

    layer: int
    requested_s: float
    landed_s: float
    asked_s: float
    waited_s: float
    adopted_s: float


class Delivery:
    """A retrieval and the lease under it, given back as soon as every layer has been taken."""

    def __init__(
        self,
        match: Match,
        retrieval: Retrieval,
        shape: KVShape,
        chunk_tokens: int,
        on_end: Callable[[Delivery], None],
        *,
        device: torch.device,
        room: int,
        guard: LoadGuard | None = None,
        told_window_s: float | None = None,
        progress_s: float,
        patience_s: float,
    ) -> None:
        """Layers will be taken on `device`, with `room` more tokens, or else later. `on_end` is called once, when all
        are taken, or after the retrieval was closed. `guard` says when the load is given up, `told_window_s` is the
        window that the storage side was told. `patience_s` after the last byte came, or after `progress_s`
        (time.perf_counter), it is late. Raises DeliveryError; the retrieval is then closed."""
        self.match = match
        self.given_up_s: float | None = None
        """After how long the load was given up."""
        self._guard = guard
        self._told_window_s = told_window_s
        self._progress_s = progress_s
        self._patience_s = patience_s
        self._progress_bytes = 0
        self.error: ObjectCacheError | None = None
        self.timings: list[LayerTiming] = []
        self._retrieval = retrieval
        self._shape = shape
        self._chunk_tokens = chunk_tokens
        self._on_end = on_end
        self._ending = threading.Lock()  # taken for good by whoever ends it
        self._ahead: LayersAhead | None = None
        loader = loader_of(device)
        if loader is not None:
            try:
                self._ahead = LayersAhead(loader, retrieval, shape, chunk_tokens, room=room)
            except ObjectCacheError:
                retrieval.close()
                raise

    def take(self, layer: int, room: int, device: torch.device | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Wait for `layer`: its K and V, [1, kv_heads, tokens + room, head_dim] each, memory of their own, on `device`
        (None: where they come to first).

        The last `room` tokens are the caller's to fill. Raises PrefixLoadError when the layer fails or its deadline
        passes; the delivery has then ended.
        """
        asked_s = time.perf_counter()
        try:
            keys, values, waited_s = self._take(layer, room, device)
            landed_s = self._retrieval.landed_s(layer) or asked_s
        except Exception as error:
            self.error = self.error or as_cache_error(error)
            self.close()
            raise PrefixLoadError(f"layer {layer} of {self.match.tokens} stored tokens: {error}") from error
        requested_s, adopted_s = self._retrieval.requested_s, time.perf_counter()
        self.timings.append(LayerTiming(layer, requested_s, landed_s, asked_s, waited_s, adopted_s))
        if len(self.timings) == self._shape.num_layers:
            self.close()
        return keys, values

    def _take(self, layer: int, room: int, device: torch.device | None) -> tuple[torch.Tensor, torch.Tensor, float]:
        """K, V, and for how long the host stood."""
        begin_s = time.perf_counter()
        self._await(layer)
        if self._ahead is not None:
            keys, values = self._ahead.take(layer, room)
            waited_s = time.perf_counter() - begin_s
            return keys.to(device or keys.device), values.to(device or keys.device), waited_s
        waited_s = time.perf_counter() - begin_s
        slices = self._retrieval.view(layer)
        keys, values = from_slices(
            slices, self._shape, self._chunk_tokens, room=room, device=device or torch.device("cpu")
        )
        return keys, values, waited_s

    def _await(self, layer: int) -> None:
        """Until `layer` is in host memory, or nothing comes any more, or the load is not worth it.

        Raises like `Retrieval.wait`.
        """
        guard, retrieval = self._guard, self._retrieval
        look_s = _LOOK_S if guard is None else guard.next_look_s
        while not self._landed(layer, min(look_s, self._patience_s)):
            now_s, arrived_bytes = time.perf_counter(), retrieval.arrived_bytes()
            waited_s = now_s - retrieval.requested_s
            if guard is not None and guard.hopeless(waited_s, arrived_bytes):
                self.given_up_s = waited_s
                raise DeliveryTimeoutError(f"given up after {waited_s:.3f} s: computing everything is faster")
            if arrived_bytes > self._progress_bytes:
                self._progress_s, self._progress_bytes = now_s, arrived_bytes
            elif now_s - self._progress_s >= self._patience_s and retrieval.shows_progress:
                raise DeliveryTimeoutError(f"nothing has come for {now_s - self._progress_s:.3f} s")

    def _landed(self, layer: int, timeout_s: float) -> bool:
        try:
            return self._retrieval.wait_until(layer, timeout_s)
        except DeliveryCancelledError:
            if self._ahead is None:
                raise
            return True  # closed by the thread that moves layers ahead, which has the layer, or knows why it has not

    @property
    def arrived_bytes(self) -> int:
        return self._retrieval.arrived_bytes()

    def correct(self, window_s: float, asked_s: float) -> None:
        """Layers take `window_s`, and the first was asked for `asked_s` ago: told if it is another window than was."""
        told_s = self._told_window_s
        if told_s is not None and abs(window_s - told_s) <= _WORTH_TELLING * told_s:
            return
        self._told_window_s = window_s
        self._retrieval.correct_windows((window_s,) * self._shape.num_layers, -asked_s)

    def close(self) -> None:
        """Give the memory and the lease back; cancels what is under way."""
        if self._ending.acquire(blocking=False):
            with suppress(ObjectCacheError):  # what was taken stays good
                if self._ahead is None:
                    self._retrieval.close()
                elif len(self.timings) < self._shape.num_layers:
                    self._ahead.close()  # once all have landed it closes the retrieval by itself
            self._on_end(self)
