"""Whole blocks of a paged cache, whose inside is nobody's business: moved as opaque bytes, whatever an engine packs.

A slice is one block, in the order in which its bytes lie: where K and V are apart, first all of K, then all of V.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from objectcache.device.forms import SliceForm, SliceOrder, as_words, widest_word
from objectcache.device.places import PagedLayer, PagedPlace
from objectcache.device.tables import BlockTable
from objectcache.errors import LayoutError


class BlockLayer:
    """One layer of a paged cache of any shape and strides, a dimension of which counts its blocks."""

    def __init__(self, cache: torch.Tensor, num_blocks: int) -> None:
        """A dimension may also be of `num_blocks` times as many blocks of the kernel's: k consecutive ones are one
        block then. Raises LayoutError where none is, or where a block lies in pieces that are not alike."""
        pieces = _pieces(cache, num_blocks)
        word = widest_word(pieces)
        form = SliceForm(pieces.shape[1], 1, 1, pieces.shape[2] * pieces.element_size(), SliceOrder.TOKENS)
        self._layer = PagedLayer(form, [as_words(pieces, word)[:, :, None, None]], word)
        self._rows: npt.NDArray[np.uint8] | None = None
        if cache.device.type == "cpu":
            self._rows = pieces.detach().view(torch.uint8).numpy()

    @property
    def device(self) -> torch.device:
        return self._layer.device

    @property
    def num_blocks(self) -> int:
        return self._layer.num_blocks

    @property
    def slice_bytes(self) -> int:
        """Of one block."""
        return self._layer.form.slice_bytes

    def at(self, table: BlockTable) -> PagedPlace | HostBlocks:
        """Raises LayoutError for blocks that it does not have. `table` is one of `block_table`."""
        if self._rows is None:
            return self._layer.at(table)
        return HostBlocks(self._layer, table, self._rows)


class HostBlocks(PagedPlace):
    """Blocks in host memory: copied by the calling thread alone, run by run, without the interpreter lock."""

    def __init__(self, layer: PagedLayer, table: BlockTable, rows: npt.NDArray[np.uint8]) -> None:
        """`rows` is [blocks, pieces, bytes of a piece]."""
        super().__init__(layer, table)
        self._rows = rows
        self._table = table

    def scatter(self, slices: torch.Tensor, first: int) -> None:
        for block, at, count, shaped in self._runs(slices, first):
            np.copyto(self._rows[block : block + count], shaped[at : at + count])

    def gather(self, slices: torch.Tensor, first: int) -> None:
        for block, at, count, shaped in self._runs(slices, first):
            np.copyto(shaped[at : at + count], self._rows[block : block + count])

    def _runs(self, slices: torch.Tensor, first: int) -> Iterator[tuple[int, int, int, npt.NDArray[Any]]]:
        """Consecutive blocks: the first one, where they are in `slices`, how many, and the slices as blocks are."""
        count = slices.shape[0]
        shaped = slices.numpy().reshape(count, *self._rows.shape[1:])
        blocks = self._table.index(self.device, first, first + count)[0].reshape(-1).numpy()
        cuts = [0, *(np.flatnonzero(np.diff(blocks) != 1) + 1).tolist(), count]
        for begin, end in pairwise(cuts):
            yield int(blocks[begin]), begin, end - begin, shaped


def block_table(block_ids: Sequence[int]) -> BlockTable:
    """Chunk i is block `block_ids[i]`. Raises LayoutError when there is none, or one twice."""
    return BlockTable(block_ids, block_tokens=1, chunk_tokens=1, num_chunks=len(block_ids))


def _pieces(cache: torch.Tensor, num_blocks: int) -> torch.Tensor:
    """A view of `cache`, [num_blocks, pieces, elements of a piece]: pieces contiguous, in the order they lie in."""
    dim = next((dim for dim, size in enumerate(cache.shape) if size == num_blocks), None)
    if dim is None:
        dim = next((dim for dim, size in enumerate(cache.shape) if num_blocks and size and not size % num_blocks), None)
    if dim is None:
        raise LayoutError(f"no dimension of {list(cache.shape)} counts {num_blocks} blocks")
    blocks: torch.Tensor = cache.detach().unflatten(dim, (num_blocks, -1)).movedim(dim, 0)  # type: ignore[no-untyped-call]
    inner = sorted(range(1, blocks.dim()), key=blocks.stride, reverse=True)
    blocks = blocks.permute(0, *inner)
    # What lies together, from the end on, is one piece; what is left before it counts pieces.
    sizes, strides = list(blocks.shape[1:]), list(blocks.stride()[1:])
    piece, pieces, apart = 1, 1, 0
    for size, stride in zip(reversed(sizes), reversed(strides), strict=True):
        if size == 1:
            continue
        if not apart and stride == piece:
            piece *= size
        elif not apart or stride == apart * pieces:
            apart = apart or stride
            pieces *= size
        else:
            raise LayoutError(f"blocks of {list(cache.shape)}, strides {list(cache.stride())}, lie in uneven pieces")
    view = (num_blocks, pieces, piece)
    return blocks.as_strided(view, (blocks.stride(0), apart or piece, 1), cache.storage_offset())
