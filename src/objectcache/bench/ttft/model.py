"""A Llama-shaped decoder with seeded random weights, as far as a prefill goes: prefix KV in, logits out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as functional

from objectcache.bench.ttft.prefill import CapturedPrefill, Prefill
from objectcache.bench.ttft.settings import Architecture

_CUDA: Any = torch.cuda  # untyped
_ROPE_BASE = 500_000.0


class PrefillModel:
    """Weights and a paged KV cache of `max_tokens` for one sequence, whose blocks are in order.

    `caches[layer]` is [2, blocks, chunk_tokens, kv_heads, head_dim], a block as large as a chunk.
    """

    def __init__(self, shape: Architecture, max_tokens: int, device: torch.device, seed: int) -> None:
        self.shape = shape
        self.device = device
        if device.type == "cpu":
            torch.set_num_threads(1)  # a pool of threads beside a busy gateway measures the scheduler
        kv = shape.kv
        self.dtype = torch.bfloat16 if kv.dtype_bytes == 2 else torch.float32
        generator = torch.Generator(device).manual_seed(seed)

        def weights(*sizes: int) -> torch.Tensor:
            made = torch.empty(*sizes, dtype=self.dtype, device=device)
            return made.normal_(0.0, 0.02, generator=generator)

        queries, pairs = shape.num_heads * kv.head_dim, 2 * kv.num_kv_heads * kv.head_dim
        self._qkv = [weights(queries + pairs, shape.hidden) for _ in range(kv.num_layers)]
        self._out = [weights(shape.hidden, queries) for _ in range(kv.num_layers)]
        self._gate_up = [weights(2 * shape.intermediate, shape.hidden) for _ in range(kv.num_layers)]
        self._down = [weights(shape.hidden, shape.intermediate) for _ in range(kv.num_layers)]
        self._embedding = weights(shape.vocabulary, shape.hidden)
        self._head = weights(shape.vocabulary, shape.hidden)
        self._cos, self._sin = _rotations(max_tokens, kv.head_dim, device, self.dtype)
        blocks = -(-max_tokens // kv.chunk_tokens)
        sizes = (2, blocks, kv.chunk_tokens, kv.num_kv_heads, kv.head_dim)
        self.caches = [torch.zeros(sizes, dtype=self.dtype, device=device) for _ in range(kv.num_layers)]
        self._captured: dict[tuple[int, int], CapturedPrefill] = {}
        self._missing: tuple[int, int] | None = None
        self._graph_memory: Any = None

    def keys_values(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V of all positions, [tokens, kv_heads, head_dim] each: views of the cache."""
        cache = self.caches[layer]
        return cache[0].flatten(0, 1), cache[1].flatten(0, 1)

    @torch.inference_mode()
    def prefill(
        self,
        tokens: torch.Tensor,
        first: int,
        *,
        before_attention: Callable[[int], None] = lambda layer: None,
        after_layer: Callable[[int], None] = lambda layer: None,
        captured: bool = False,
    ) -> torch.Tensor:
        """Compute positions [first, first + len(tokens)); their KV goes into the cache. Logits of the last one.

        `before_attention(layer)` is called when the layer's KV of earlier positions is needed next, where engines wait.
        `captured`: from graphs, if there are some for this shape (`capture_missing`).
        """
        shape = (first, len(tokens))
        found = self._captured.get(shape) if captured else None
        if found is None and captured and self.device.type == "cuda":
            self._missing = shape
        prefill = Prefill(self, tokens, first) if found is None else found.take(tokens)
        return prefill.run(before_attention, after_layer)

    @torch.inference_mode()
    def capture_missing(self) -> bool:
        """Make graphs for the shape that the last prefill wanted and did not find. False: it found them."""
        shape, self._missing = self._missing, None
        if shape is None:
            return False
        first, length = shape
        if self._graph_memory is None:
            self._graph_memory = _CUDA.graph_pool_handle()
        tokens = torch.zeros(length, dtype=torch.int64, device=self.device)
        self._captured[shape] = CapturedPrefill(self, tokens, first, self._graph_memory)
        return True

    @torch.inference_mode()
    def decode(self, caches: Sequence[torch.Tensor], tokens: torch.Tensor, position: int) -> torch.Tensor:
        """The next token of each of several sequences, all at `position`. `caches[layer]` has their KV, [2, sequences,
        positions, kv_heads, head_dim], to which theirs is added."""
        states = self.embed(tokens)
        for layer, cache in enumerate(caches):
            query, key, value = self.project(layer, states, slice(position, position + 1))
            cache[0, :, position] = key
            cache[1, :, position] = value
            keys, values = cache[:, :, : position + 1].transpose(2, 3)
            attended = functional.scaled_dot_product_attention(query[:, :, None], keys, values, enable_gqa=True)
            states = self.complete(layer, states, attended[:, :, 0])
        return self.logits(states).argmax(dim=-1)

    # -- what a step is made of: states are [tokens, hidden] -----------------------------------------------

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        return functional.embedding(tokens, self._embedding)

    def project(
        self, layer: int, states: torch.Tensor, positions: slice
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query, key and value, [tokens, heads, head_dim] each."""
        kv = self.shape.kv
        cos, sin = self._cos[positions], self._sin[positions]
        split = [self.shape.num_heads, kv.num_kv_heads, kv.num_kv_heads]
        heads = functional.linear(_norm(states), self._qkv[layer]).view(len(states), -1, kv.head_dim)
        query, key, value = torch.split(heads, split, dim=1)
        return _rotate(query, cos, sin), _rotate(key, cos, sin), value

    def complete(self, layer: int, states: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """What the layer makes of `states`, given what its attention has made of them."""
        states = states + functional.linear(attended.flatten(1), self._out[layer])
        gate, up = functional.linear(_norm(states), self._gate_up[layer]).chunk(2, dim=-1)
        return states + functional.linear(functional.silu(gate) * up, self._down[layer])

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        return functional.linear(_norm(states), self._head)


def _norm(states: torch.Tensor) -> torch.Tensor:
    return functional.rms_norm(states, states.shape[-1:])


def _rotations(
    tokens: int, head_dim: int, device: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    inverse = _ROPE_BASE ** (-torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)
    angles = torch.outer(torch.arange(tokens, device=device, dtype=torch.float32), inverse).repeat(1, 2)[:, None]
    return angles.cos().to(dtype), angles.sin().to(dtype)


def _rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """[tokens, heads, head_dim], each at its position."""
    first, second = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat((-second, first), dim=-1) * sin
