"""Caches as engines have them, each with the plainest way of writing one token's vector into it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from objectcache.device import (
    BlockTable,
    Place,
    SliceOrder,
    contiguous_kv,
    contiguous_latent,
    paged_kv,
    paged_latent,
    paged_pair,
)
from objectcache.device.strided import StridedCopy

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.uint8)
PAGED = ("kv", "kv-blocks-first", "kv-heads-first", "pair", "pair-strided", "latent")
CONTIGUOUS = ("contiguous", "contiguous-strided", "contiguous-latent")


@dataclass(frozen=True)
class Shape:
    """What is put where. `first_token` counts from the start of the sequence's own table or row."""

    layout: str
    dtype: torch.dtype
    heads: int
    head_size: int
    chunk_tokens: int
    block_tokens: int
    num_chunks: int
    first_token: int = 0
    order: SliceOrder = SliceOrder.TOKENS

    @property
    def kinds(self) -> int:
        return 1 if "latent" in self.layout else 2

    @property
    def slice_bytes(self) -> int:
        return self.kinds * self.heads * self.chunk_tokens * self.head_size * self.dtype.itemsize

    @property
    def num_blocks(self) -> int:
        return -(-(self.first_token + self.num_chunks * self.chunk_tokens) // self.block_tokens)


@dataclass(frozen=True)
class EngineCache:
    """`tensors` hold one layer; `vector(kind, position, head)` is what they have of one token, as bytes, writable."""

    shape: Shape
    tensors: tuple[torch.Tensor, ...]
    place: Place
    vector: Callable[[int, int, int], torch.Tensor]

    def put(self, slices: npt.NDArray[np.uint8]) -> None:
        """The reference: slice by slice, token by token."""
        shape = self.shape
        heads_first = shape.order is SliceOrder.HEADS and shape.kinds == 2
        inner = (shape.heads, shape.chunk_tokens) if heads_first else (shape.chunk_tokens, shape.heads)
        for chunk, data in enumerate(slices):
            parts = data.reshape(shape.kinds, *inner, -1)
            for kind, head, token in np.ndindex(shape.kinds, shape.heads, shape.chunk_tokens):
                vector = parts[kind, head, token] if heads_first else parts[kind, token, head]
                position = shape.first_token + chunk * shape.chunk_tokens + token
                self.vector(kind, position, head).copy_(torch.from_numpy(vector))

    def raw(self) -> list[torch.Tensor]:
        """All bytes, of this sequence and of others, in memory of their own."""
        copies = [torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor) for tensor in self.tensors]
        return [copy.view(torch.uint8) for copy in copies]


def make(
    shape: Shape, block_ids: Sequence[int] = (), *, spare_blocks: int = 3, device: str = "cpu", seed: int = 0
) -> Any:
    """An EngineCache of random bytes. `block_ids` name `shape.num_blocks` blocks of `num_blocks + spare_blocks`."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*sizes: int) -> torch.Tensor:
        raw = torch.randint(
            0, 256, (*sizes[:-1], sizes[-1] * shape.dtype.itemsize), generator=generator, dtype=torch.uint8
        )
        return raw.to(device).view(shape.dtype)

    if shape.layout in PAGED:
        return _paged(shape, block_ids or range(shape.num_blocks), shape.num_blocks + spare_blocks, noise)
    return _contiguous(shape, noise)


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.uint8)


def _paged(shape: Shape, block_ids: Sequence[int], blocks: int, noise: Callable[..., torch.Tensor]) -> EngineCache:
    tokens, heads, size = shape.block_tokens, shape.heads, shape.head_size
    chunk, order = shape.chunk_tokens, shape.order
    table = BlockTable(
        block_ids,
        block_tokens=tokens,
        chunk_tokens=chunk,
        num_chunks=shape.num_chunks,
        first_token=shape.first_token,
    )

    def at(position: int) -> tuple[int, int]:
        return block_ids[position // tokens], position % tokens

    if shape.layout == "latent":
        cache = noise(blocks, tokens, size)
        place = paged_latent(cache, chunk_tokens=chunk).at(table)
        return EngineCache(shape, (cache,), place, lambda kind, position, head: _bytes(cache)[at(position)])
    if shape.layout.startswith("pair"):
        if shape.layout == "pair":
            keys, values = noise(blocks, tokens, heads, size), noise(blocks, tokens, heads, size)
        else:  # head_size not the last in memory: nothing to view in wider words
            keys, values = (noise(blocks, tokens, size, heads).transpose(2, 3) for _ in range(2))
        place = paged_pair(keys, values, chunk_tokens=chunk, order=order).at(table)

        def of_pair(kind: int, position: int, head: int) -> Any:
            return _element((keys, values)[kind], (*at(position), head))

        return EngineCache(shape, (keys, values), place, of_pair)
    if shape.layout == "kv-blocks-first":
        cache = noise(blocks, 2, tokens, heads, size)
        place = paged_kv(cache, chunk_tokens=chunk, kinds_dim=1, order=order).at(table)

        def blocks_first(kind: int, position: int, head: int) -> torch.Tensor:
            block, token = at(position)
            return _bytes(cache)[block, kind, token, head]

        return EngineCache(shape, (cache,), place, blocks_first)
    if shape.layout == "kv-heads-first":
        cache = noise(2, blocks, heads, tokens, size).transpose(2, 3)
    else:
        cache = noise(2, blocks, tokens, heads, size)
    place = paged_kv(cache, chunk_tokens=chunk, order=order).at(table)

    def kinds_first(kind: int, position: int, head: int) -> torch.Tensor:
        return _bytes(cache)[(kind, *at(position), head)]

    return EngineCache(shape, (cache,), place, kinds_first)


class _Strided:
    """A vector whose elements are apart, written like one of bytes."""

    def __init__(self, vector: torch.Tensor) -> None:
        self._vector = vector

    def copy_(self, data: torch.Tensor) -> None:
        integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[self._vector.element_size()]
        self._vector.view(integers).copy_(data.clone().view(integers))


def _element(tensor: torch.Tensor, index: tuple[int, ...]) -> Any:
    return _bytes(tensor)[index] if tensor.stride(-1) == 1 else _Strided(tensor[index])


def _contiguous(shape: Shape, noise: Callable[..., torch.Tensor]) -> EngineCache:
    tokens = shape.first_token + shape.num_chunks * shape.chunk_tokens + 5
    stretch: dict[str, int] = {
        "chunk_tokens": shape.chunk_tokens,
        "num_chunks": shape.num_chunks,
        "row": 1,
        "first_token": shape.first_token,
    }
    if shape.layout == "contiguous-latent":
        states = noise(2, tokens, shape.head_size)
        place = contiguous_latent(states, **stretch)
        return EngineCache(shape, (states,), place, lambda kind, position, head: _bytes(states)[1, position])
    if shape.layout == "contiguous":
        keys, values = (noise(3, shape.heads, tokens, shape.head_size) for _ in range(2))
    else:  # tokens first in memory, as some attention kernels leave them
        keys, values = (noise(3, tokens, shape.heads, shape.head_size).transpose(1, 2) for _ in range(2))
    place = contiguous_kv(keys, values, order=shape.order, **stretch)

    def vector(kind: int, position: int, head: int) -> torch.Tensor:
        return _bytes((keys, values)[kind])[1, head, position]

    return EngineCache(shape, (keys, values), place, vector)


def random_slices(shape: Shape, seed: int = 1) -> npt.NDArray[np.uint8]:
    """uint8 [num_chunks, slice_bytes]: any bit pattern, so NaNs too."""
    return np.random.default_rng(seed).integers(0, 256, (shape.num_chunks, shape.slice_bytes), dtype=np.uint8)


def copy_rows(copies: Sequence[StridedCopy], source: int) -> None:
    """What a copy engine does, row by row, in host memory."""
    for copy in copies:
        for row in range(copy.rows):
            target_row = copy.target + row * copy.target_pitch_bytes
            ctypes.memmove(target_row, source + copy.source + row * copy.source_pitch_bytes, copy.row_bytes)
