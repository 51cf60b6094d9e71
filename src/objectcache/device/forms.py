"""How a slice is laid out inside, and views of slices and caches that a kernel can copy between."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch

from objectcache.errors import LayoutError

_WORDS = {16: torch.complex128, 8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}


class SliceOrder(StrEnum):
    """Which comes first inside K or V of a slice."""

    HEADS = "heads"  # [kv_heads, tokens, head_size], as the transformers connector stores it
    TOKENS = "tokens"  # [tokens, kv_heads, head_size], as the blocks of paged caches mostly are


@dataclass(frozen=True, slots=True)
class SliceForm:
    """A slice: `kinds` (2: K, then V; 1: a latent) arrays of `chunk_tokens` tokens, `heads` heads and `head_bytes`."""

    kinds: int
    heads: int
    chunk_tokens: int
    head_bytes: int
    order: SliceOrder

    def __post_init__(self) -> None:
        if min(self.kinds, self.heads, self.chunk_tokens, self.head_bytes) < 1:
            raise LayoutError(f"a slice has at least one of everything, got {self}")

    @property
    def slice_bytes(self) -> int:
        return self.kinds * self.heads * self.chunk_tokens * self.head_bytes

    def words(self, slices: torch.Tensor, word_bytes: int) -> torch.Tensor:
        """Slices, uint8 [n, slice_bytes], in words: a view."""
        return slices.view(_WORDS[word_bytes])

    def cells(self, word_bytes: int, cell_tokens: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Sizes, without that of n, and strides, of contiguous slices in words as [n, cells a chunk, kinds, heads,
        cell_tokens, words]."""
        words = self.head_bytes // word_bytes
        sizes = (self.chunk_tokens // cell_tokens, self.kinds, self.heads, cell_tokens, words)
        kind = self.heads * self.chunk_tokens * words
        tokens_first = self.order is SliceOrder.TOKENS
        token, head = (self.heads * words, words) if tokens_first else (words, self.chunk_tokens * words)
        return sizes, (self.kinds * kind, cell_tokens * token, kind, head, token, 1)

    def view(self, slices: torch.Tensor, word_bytes: int) -> torch.Tensor:
        """Of slices, uint8 [n, slice_bytes], contiguous: [n, kinds, heads, chunk_tokens, words], no copy."""
        inner = (self.heads, self.chunk_tokens) if self.order is SliceOrder.HEADS else (self.chunk_tokens, self.heads)
        words = self.words(slices, word_bytes).view(-1, self.kinds, *inner, self.head_bytes // word_bytes)
        return words if self.order is SliceOrder.HEADS else words.transpose(2, 3)


def as_words(states: torch.Tensor, word_bytes: int) -> torch.Tensor:
    """`states` in words of `word_bytes`: bytes are moved, whatever they mean (NaNs, fp8), in few wide words.

    Nothing is computed with them. torch has no integers of 16 bytes: complex numbers serve.
    """
    return states.detach().view(_WORDS[word_bytes])


def widest_word(states: torch.Tensor) -> int:
    """The largest word, in bytes, that `as_words` can view a cache in. Raises LayoutError when there is none."""
    item = states.element_size()
    if item not in (1, 2, 4, 8):
        raise LayoutError(f"KV of {states.dtype} is not moved: elements have 1, 2, 4 or 8 bytes")
    if states.dim() == 0 or states.stride(-1) != 1:
        return item
    counts = (states.storage_offset(), states.shape[-1], *states.stride()[:-1])
    begins = (states.data_ptr(), *(count * item for count in counts))
    return next(word for word in _WORDS if word <= item or all(begin % word == 0 for begin in begins))


def split(states: torch.Tensor, dim: int, sizes: tuple[int, ...]) -> torch.Tensor:
    """A view with `dim` in its place as several, of `sizes` (-1: what is left)."""
    view: torch.Tensor = states.unflatten(dim, sizes)  # type: ignore[no-untyped-call]
    return view
