"""Where the chunks of one part lie in one layer of an engine's cache: paged blocks, or a contiguous stretch.

A place copies between there and slices on the same device, with one kernel (K and V in tensors of their own: one each)
in the current stream, whatever the number of chunks. Where its chunks lie in few runs it also says how to copy them
there straight from the host's memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from objectcache.device.forms import SliceForm, SliceOrder, as_words, split, widest_word
from objectcache.device.strided import LEAST_ROW_BYTES, StridedCopy
from objectcache.device.tables import BlockTable
from objectcache.errors import LayoutError


class Place(Protocol):
    """`num_chunks` chunks of one part at one layer, on `device`. Slices are uint8 [n, slice_bytes], contiguous."""

    @property
    def device(self) -> torch.device: ...

    @property
    def num_chunks(self) -> int: ...

    @property
    def slice_bytes(self) -> int: ...

    def scatter(self, slices: torch.Tensor, first: int) -> None:
        """Put `slices` where chunks `first` and following lie."""

    def gather(self, slices: torch.Tensor, first: int) -> None:
        """Fill `slices` with chunks `first` and following."""

    def copies(self, first: int, stop: int) -> Sequence[StridedCopy] | None:
        """What `scatter` does of slices of chunks [first, stop), one behind the other in host memory, in few copies;
        None where it takes many."""


class PagedLayer:
    """One layer of a paged cache, as an engine registers it: made once, `at` a table for each sequence."""

    def __init__(self, form: SliceForm, targets: Sequence[torch.Tensor], word_bytes: int) -> None:
        """`targets` hold the kinds in order, words [blocks, kinds or 1, heads, block_tokens, words a head] each."""
        self.form = form
        self.word_bytes = word_bytes
        self._targets = tuple(targets)
        self._cuts: dict[int, Cut] = {}

    @property
    def device(self) -> torch.device:
        return self._targets[0].device

    @property
    def num_blocks(self) -> int:
        return self._targets[0].shape[0]

    @property
    def block_tokens(self) -> int:
        return self._targets[0].shape[3]

    def at(self, table: BlockTable) -> PagedPlace:
        """Raises LayoutError when the table is of other blocks or chunks."""
        return PagedPlace(self, table)

    def cut(self, cell_tokens: int) -> Cut:
        """In cells; made once for each size."""
        found = self._cuts.get(cell_tokens)
        if found is None:
            found = self._cuts[cell_tokens] = Cut(self.form, self.word_bytes, self._targets, cell_tokens)
        return found


class Cut:
    """A layer's caches and its slices, cut into the same cells: in views, so that few calls are left for each copy."""

    def __init__(self, form: SliceForm, word_bytes: int, targets: Sequence[torch.Tensor], cell_tokens: int) -> None:
        self._targets = [split(target, 3, (-1, cell_tokens)).permute(0, 3, 1, 2, 4, 5) for target in targets]
        """[blocks, cells a block, kinds or 1, heads, cell_tokens, words] each."""
        self._form = form
        self._word_bytes = word_bytes
        self._sizes, self._strides = form.cells(word_bytes, cell_tokens)
        self.rows = [
            CellRows(target, kind, (kind + index) * self._strides[2] * word_bytes, row_bytes)
            for index, target in enumerate(self._targets)
            if (row_bytes := self._row_bytes(target)) >= LEAST_ROW_BYTES
            for kind in range(target.shape[2])
        ]
        """All cells of each kind, where the inside of a cell lies as it does in slices; else none."""

    def _row_bytes(self, target: torch.Tensor) -> int:
        """Of a cell of one kind, whose bytes lie together, in the same order in both; 0 where they do not."""
        inner = [
            (size, there, here)
            for size, there, here in zip(target.shape[3:], target.stride()[3:], self._strides[3:], strict=True)
            if size > 1
        ]
        words = 1
        for size, there, here in sorted(inner, key=lambda each: each[2]):
            if not there == here == words:
                return 0
            words *= size
        return words * self._word_bytes

    def pairs(self, slices: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Each target beside its kinds of `slices`, [n, cells a chunk, kinds or 1, heads, cell_tokens, words]."""
        words = self._form.words(slices, self._word_bytes)
        cells = words.as_strided((slices.shape[0], *self._sizes), self._strides)
        if len(self._targets) == 1:
            return [(self._targets[0], cells)]
        return [(target, cells[:, :, kind : kind + 1]) for kind, target in enumerate(self._targets)]


class CellRows:
    """Cells of one kind of a layer, each a row of `row_bytes`; `kind_bytes` from a slice's cell on."""

    def __init__(self, target: torch.Tensor, kind: int, kind_bytes: int, row_bytes: int) -> None:
        item = target.element_size()
        block, cell, kinds = (stride * item for stride in target.stride()[:3])
        self.address = target.data_ptr() + kind * kinds
        self.pitches_bytes = block, cell
        self.kind_bytes = kind_bytes
        self.row_bytes = row_bytes


class PagedPlace:
    """What a block table names of a PagedLayer."""

    def __init__(self, layer: PagedLayer, table: BlockTable) -> None:
        form = layer.form
        if (table.block_tokens, table.chunk_tokens) != (layer.block_tokens, form.chunk_tokens):
            raise LayoutError(
                f"the table is of chunks of {table.chunk_tokens} tokens in blocks of {table.block_tokens}, the cache "
                f"of {form.chunk_tokens} in {layer.block_tokens}"
            )
        if table.max_block >= layer.num_blocks:
            raise LayoutError(f"block {table.max_block} is beyond the cache's {layer.num_blocks}")
        self._layer = layer
        self._table = table
        self._cut = layer.cut(table.cell_tokens)

    @property
    def device(self) -> torch.device:
        return self._layer.device

    @property
    def num_chunks(self) -> int:
        return self._table.num_chunks

    @property
    def slice_bytes(self) -> int:
        return self._layer.form.slice_bytes

    def scatter(self, slices: torch.Tensor, first: int) -> None:
        index = self._table.index(self.device, first, first + slices.shape[0])
        for target, cells in self._cut.pairs(slices):
            target.index_put_(index, cells)

    def gather(self, slices: torch.Tensor, first: int) -> None:
        index = self._table.index(self.device, first, first + slices.shape[0])
        for target, cells in self._cut.pairs(slices):
            _INDEX_INTO(target, index, out=cells)

    def copies(self, first: int, stop: int) -> Sequence[StridedCopy] | None:
        found: list[StridedCopy] = []
        for rows in self._cut.rows:
            copies = self._table.copies(first, stop, rows.pitches_bytes, rows.row_bytes, self.slice_bytes)
            if copies is None:
                return None
            found += (copy.moved(rows.address, rows.kind_bytes) for copy in copies)
        return found or None


# Indexing straight into a strided output: `tensor[index]` would make a second copy.
_INDEX_INTO: Any = torch.ops.aten.index.Tensor_out


class ContiguousPlace:
    """A stretch of tokens of one sequence in caches without blocks."""

    def __init__(self, form: SliceForm, targets: Sequence[torch.Tensor], word_bytes: int, num_chunks: int) -> None:
        """`targets` are the kinds in order, words [num_chunks, heads, chunk_tokens, words a head] each."""
        self._form = form
        self._targets = tuple(targets)
        self._word_bytes = word_bytes
        self._num_chunks = num_chunks

    @property
    def device(self) -> torch.device:
        return self._targets[0].device

    @property
    def num_chunks(self) -> int:
        return self._num_chunks

    @property
    def slice_bytes(self) -> int:
        return self._form.slice_bytes

    def scatter(self, slices: torch.Tensor, first: int) -> None:
        words = self._form.view(slices, self._word_bytes)
        for kind, target in enumerate(self._targets):
            target[first : first + slices.shape[0]].copy_(words[:, kind])

    def gather(self, slices: torch.Tensor, first: int) -> None:
        words = self._form.view(slices, self._word_bytes)
        for kind, target in enumerate(self._targets):
            words[:, kind].copy_(target[first : first + slices.shape[0]])

    def copies(self, first: int, stop: int) -> Sequence[StridedCopy] | None:
        return None  # rows are a chunk of one head: short


# -- the layouts that engines have ------------------------------------------------------------------------


def paged_kv(
    cache: torch.Tensor, *, chunk_tokens: int, kinds_dim: int = 0, order: SliceOrder = SliceOrder.TOKENS
) -> PagedLayer:
    """vLLM's blocks: [2, blocks, block_tokens, kv_heads, head_size] (`kinds_dim` 0), or with [blocks, 2, …] (1).

    Any strides: where heads come first in memory, pass the permuted view. `order` is that of the stored slices.
    """
    if cache.dim() != 5 or kinds_dim not in (0, 1) or cache.shape[kinds_dim] != 2:
        raise LayoutError(f"{list(cache.shape)} with K and V in dimension {kinds_dim} is no paged cache of K and V")
    word = widest_word(cache)
    form = _form(2, cache.shape[3], chunk_tokens, cache, order)
    ordered = cache.transpose(0, 1) if kinds_dim == 0 else cache
    return PagedLayer(form, [as_words(ordered, word).transpose(2, 3)], word)


def paged_pair(
    keys: torch.Tensor, values: torch.Tensor, *, chunk_tokens: int, order: SliceOrder = SliceOrder.TOKENS
) -> PagedLayer:
    """K and V in tensors of their own, [blocks, block_tokens, kv_heads, head_size] each."""
    if keys.dim() != 4 or keys.shape != values.shape or keys.dtype != values.dtype or keys.device != values.device:
        raise LayoutError(f"K {list(keys.shape)} {keys.dtype} and V {list(values.shape)} {values.dtype} are no pair")
    word = min(widest_word(keys), widest_word(values))
    targets = [as_words(states, word).transpose(1, 2).unsqueeze(1) for states in (keys, values)]
    return PagedLayer(_form(2, keys.shape[2], chunk_tokens, keys, order), targets, word)


def paged_latent(cache: torch.Tensor, *, chunk_tokens: int) -> PagedLayer:
    """MLA's blocks, [blocks, block_tokens, latent]: slices are [chunk_tokens, latent].

    Blocks whose inside is nobody's business, [blocks, …] contiguous, are moved whole with `cache.view(blocks, 1, -1)`
    and a chunk of one "token".
    """
    if cache.dim() != 3:
        raise LayoutError(f"{list(cache.shape)} is no paged cache of latents")
    word = widest_word(cache)
    form = _form(1, 1, chunk_tokens, cache, SliceOrder.TOKENS)
    return PagedLayer(form, [as_words(cache, word)[:, None, None]], word)


def contiguous_kv(
    keys: torch.Tensor,
    values: torch.Tensor,
    *,
    chunk_tokens: int,
    num_chunks: int,
    row: int = 0,
    first_token: int = 0,
    order: SliceOrder = SliceOrder.HEADS,
) -> ContiguousPlace:
    """Sequence `row` of K and V as transformers has them, [batch, kv_heads, tokens, head_size] each: the chunks that
    begin at `first_token`. Raises LayoutError when they do not fit."""
    if keys.dim() != 4 or keys.shape != values.shape or keys.dtype != values.dtype or keys.device != values.device:
        raise LayoutError(f"K {list(keys.shape)} {keys.dtype} and V {list(values.shape)} {values.dtype} are no pair")
    _check_stretch(keys.shape[0], keys.shape[2], row, first_token, chunk_tokens * num_chunks)
    word = min(widest_word(keys), widest_word(values))
    stop_token = first_token + chunk_tokens * num_chunks
    stretches = [as_words(states, word)[row, :, first_token:stop_token] for states in (keys, values)]
    targets = [split(stretch, 1, (num_chunks, chunk_tokens)).transpose(0, 1) for stretch in stretches]
    return ContiguousPlace(_form(2, keys.shape[1], chunk_tokens, keys, order), targets, word, num_chunks)


def contiguous_latent(
    states: torch.Tensor, *, chunk_tokens: int, num_chunks: int, row: int = 0, first_token: int = 0
) -> ContiguousPlace:
    """Sequence `row` of latents [batch, tokens, latent]: the chunks that begin at `first_token`."""
    if states.dim() != 3:
        raise LayoutError(f"{list(states.shape)} is no cache of latents")
    _check_stretch(states.shape[0], states.shape[1], row, first_token, chunk_tokens * num_chunks)
    word = widest_word(states)
    stretch = as_words(states, word)[row, first_token : first_token + chunk_tokens * num_chunks]
    form = _form(1, 1, chunk_tokens, states, SliceOrder.TOKENS)
    return ContiguousPlace(form, [split(stretch, 0, (num_chunks, 1, chunk_tokens))], word, num_chunks)


def _check_stretch(rows: int, tokens: int, row: int, first_token: int, wanted: int) -> None:
    if not 0 <= row < rows or first_token < 0 or wanted < 1 or first_token + wanted > tokens:
        raise LayoutError(
            f"{wanted} tokens from {first_token} on of sequence {row} are not in a cache of {rows} × {tokens} tokens"
        )


def _form(kinds: int, heads: int, chunk_tokens: int, states: torch.Tensor, order: SliceOrder) -> SliceForm:
    return SliceForm(kinds, heads, chunk_tokens, states.shape[-1] * states.element_size(), order)
