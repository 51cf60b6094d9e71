"""One request, three ways, with the times of every layer."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from transformers import DynamicCache

from objectcache.cache.base import RetrieveOptions
from objectcache.connectors.transformers import LayerTiming, TransformersConnector, cache_input
from objectcache.errors import ObjectCacheError

_MS = 1e3


@dataclass(frozen=True, slots=True)
class Measured:
    """One run: time to the first token, its logits over the computed tokens [1, n, vocabulary], and where time went.

    `computed_tokens` is what went through the first decoder layer, not what should have. `spans_s` are start and end
    of each decoder layer and `timings` when its prefix came, on time.perf_counter.
    """

    ttft_s: float
    computed_tokens: int
    logits: torch.Tensor
    next_token: int
    spans_s: list[tuple[float, float]]
    matched_tokens: int = 0
    matched_bytes: int = 0
    timings: tuple[LayerTiming, ...] = field(default=(), repr=False)

    @property
    def layer_share_s(self) -> float:
        """What one layer would take if the transfer went evenly (all layers are equally large)."""
        landed = [timing.landed_s - timing.requested_s for timing in self.timings]
        return max(landed) / len(landed)

    @property
    def first_share(self) -> float:
        """When the first layer landed, as a multiple of its share of the whole transfer's time."""
        first = self.timings[0]
        return (first.landed_s - first.requested_s) / self.layer_share_s

    @property
    def in_order(self) -> bool:
        landed = [timing.landed_s for timing in self.timings]
        return landed == sorted(landed)

    def layers(self) -> list[dict[str, float]]:
        """Per layer, in ms since the delivery was asked for: when it arrived, when the forward entered and left it."""
        rows = []
        for timing, (start_s, end_s) in zip(self.timings, self.spans_s, strict=True):
            zero_s = timing.requested_s
            rows.append(
                {
                    "layer": timing.layer,
                    "arrival_ms": (timing.landed_s - zero_s) * _MS,
                    "compute_start_ms": (start_s - zero_s) * _MS,
                    "asked_ms": (timing.asked_s - zero_s) * _MS,
                    "waited_ms": timing.waited_s * _MS,
                    "compute_end_ms": (end_s - zero_s) * _MS,
                    "compute_ms": (end_s - start_s - timing.waited_s) * _MS,
                }
            )
        return rows


class LayerClock(AbstractContextManager["LayerClock"]):
    """Notes when a forward enters and leaves each decoder layer. Hooks for measuring only: loading needs none."""

    def __init__(self, model: Any) -> None:
        self._layers = model.model.layers
        self._hooks: list[Any] = []
        self._entered_s = 0.0
        self.spans_s: list[tuple[float, float]] = []
        self.tokens = 0

    def __enter__(self) -> LayerClock:
        for layer in self._layers:
            self._hooks += [layer.register_forward_pre_hook(self._enter), layer.register_forward_hook(self._leave)]
        return self

    def _enter(self, _layer: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        if not self.spans_s:
            self.tokens += inputs[0].shape[1]
        self._entered_s = time.perf_counter()

    def _leave(self, _layer: Any, _inputs: Any, _output: Any) -> None:
        self.spans_s.append((self._entered_s, time.perf_counter()))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()


def recompute(model: Any, ids: torch.Tensor, keep: int, prefix: DynamicCache | None = None) -> Measured:
    """Compute `ids`, [1, tokens], or what comes after `prefix` in memory; logits of the last `keep` tokens."""
    known = 0 if prefix is None else int(prefix.get_seq_length())
    with LayerClock(model) as clock, torch.no_grad():
        start_s = time.perf_counter()
        logits = model(ids[:, known:], use_cache=True, logits_to_keep=keep, **cache_input(model, prefix)).logits
        token = int(logits[0, -1].argmax())
        ttft_s = time.perf_counter() - start_s
    return Measured(ttft_s, clock.tokens, logits, token, clock.spans_s, matched_tokens=known)


def from_cache(
    connector: TransformersConnector, model: Any, ids: torch.Tensor, keep: int, options: RetrieveOptions
) -> Measured:
    """Load what is stored of `ids`, compute the rest; logits of the last `keep` tokens. The time includes the match.

    Raises ObjectCacheError when nothing is found, or loading fails.
    """
    with LayerClock(model) as clock:
        start_s = time.perf_counter()
        result = connector.prefill(ids, store=False, options=options, logits_to_keep=keep)
        logits = result.outputs.logits
        token = int(logits[0, -1].argmax())
        ttft_s = time.perf_counter() - start_s
    report = result.report
    if report.error is not None:
        raise report.error
    if not report.matched_tokens:
        raise ObjectCacheError("nothing of what the first process stored was found")
    return Measured(
        ttft_s,
        clock.tokens,
        logits,
        token,
        clock.spans_s,
        matched_tokens=report.matched_tokens,
        matched_bytes=report.matched_bytes,
        timings=report.timings,
    )


def copy_prefix(past: Any, tokens: int) -> DynamicCache:
    """The first `tokens` tokens of a filled cache, in memory of their own."""
    copied = DynamicCache()
    for index, layer in enumerate(past.layers):
        copied.update(layer.keys[:, :, :tokens].clone(), layer.values[:, :, :tokens].clone(), index)
    return copied
