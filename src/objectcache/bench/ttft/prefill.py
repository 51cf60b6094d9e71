"""A prefill in pieces, between which an engine waits for KV: launched kernel by kernel, or as one CUDA graph each.

Engines capture what lies between attentions, and so do we: kernel by kernel a layer takes the host up to a millisecond,
and several while other processes want its cores, which would measure the launching.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as functional

if TYPE_CHECKING:
    from objectcache.bench.ttft.model import PrefillModel

_CUDA: Any = torch.cuda  # untyped
_FLASH: Any = torch.ops.aten._flash_attention_forward


class Prefill:
    """Of tokens [first, first + len(tokens)). Piece 0 ends with the query of layer 0, piece l + 1 begins with the
    attention of layer l: between them that layer's KV of earlier tokens must be there."""

    def __init__(self, model: PrefillModel, tokens: torch.Tensor, first: int) -> None:
        self._model = model
        self._tokens = tokens
        self._positions = slice(first, first + len(tokens))
        self._states = self._query = self._logits = torch.empty(0)
        layers = model.shape.num_layers
        self._pieces: list[Callable[[], None]] = [
            self._enter,
            *(partial(self._layer, layer) for layer in range(layers)),
        ]

    def run(self, before_attention: Callable[[int], None], after_layer: Callable[[int], None]) -> torch.Tensor:
        """Logits of the last token, [vocabulary]. One is called where a layer's KV is needed, the other where the layer
        is computed."""
        self._pieces[0]()
        for layer, piece in enumerate(self._pieces[1:]):
            before_attention(layer)
            piece()
            after_layer(layer)
        return self._logits

    def _enter(self) -> None:
        self._states = self._model.embed(self._tokens)
        self._project(0)

    def _layer(self, layer: int) -> None:
        keys, values = self._model.keys_values(layer)
        stop = self._positions.stop
        attended = _attend(self._query, keys[:stop], values[:stop])
        self._states = self._model.complete(layer, self._states, attended)
        if layer + 1 < self._model.shape.num_layers:
            self._project(layer + 1)
        else:
            self._logits = self._model.logits(self._states[-1])

    def _project(self, layer: int) -> None:
        self._query, key, value = self._model.project(layer, self._states, self._positions)
        keys, values = self._model.keys_values(layer)
        keys[self._positions] = key
        values[self._positions] = value


class CapturedPrefill(Prefill):
    """The same kernels, a graph for each piece. Those of one memory pool are never run at the same time."""

    def __init__(self, model: PrefillModel, tokens: torch.Tensor, first: int, memory: Any) -> None:
        """`tokens` are the graphs' own."""
        super().__init__(model, tokens, first)
        stream = _CUDA.Stream()
        stream.wait_stream(_CUDA.current_stream())
        graphs = [_CUDA.CUDAGraph() for _ in self._pieces]
        with _CUDA.stream(stream):
            for graph, piece in zip(graphs, self._pieces, strict=True):
                graph.capture_begin(pool=memory, capture_error_mode="thread_local")
                try:
                    piece()
                finally:
                    graph.capture_end()
        _CUDA.current_stream().wait_stream(stream)
        self._pieces = [graph.replay for graph in graphs]

    def take(self, tokens: torch.Tensor) -> CapturedPrefill:
        """Itself, to be run for these."""
        self._tokens.copy_(tokens)
        return self

    def run(self, before_attention: Callable[[int], None], after_layer: Callable[[int], None]) -> torch.Tensor:
        return super().run(before_attention, after_layer).clone()  # the next run has its own there


def _attend(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Causal attention of the last positions to all: [tokens, heads, head_dim]. On CUDA the flash kernel, whose causal
    mask is aligned at the end and which reads fewer KV heads as they are."""
    if query.is_cuda:
        attended: torch.Tensor = _FLASH(
            query[None], keys[None], values[None], None, None, len(query), len(keys), 0.0, True, False
        )[0]
        return attended[0]
    ahead = len(keys) - len(query)
    mask = torch.ones(len(query), len(keys), dtype=torch.bool).tril(ahead)
    repeats = query.shape[1] // keys.shape[1]
    wide_keys, wide_values = (each.repeat_interleave(repeats, dim=1).transpose(0, 1) for each in (keys, values))
    attended = functional.scaled_dot_product_attention(query.transpose(0, 1), wide_keys, wide_values, attn_mask=mask)
    return attended.transpose(0, 1)
