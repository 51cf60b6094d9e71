"""Which blocks of a paged cache hold the chunks of one part of one sequence."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from objectcache.device.strided import Rows, StridedCopy
from objectcache.errors import LayoutError

_CUDA: Any = torch.cuda  # untyped
_MOST_INDICES = 64
"""Runs of chunks whose index, or copies, are kept: all layers of a group have the same."""
_MOST_COPIES = 8
"""Of one kind of a run of chunks: more take longer to queue than staging and a kernel do."""


class BlockTable:
    """Chunks 0 … `num_chunks` - 1 of a part, in blocks of `block_tokens` tokens.

    `block_ids` is the sequence's own table, as engines keep it: block i holds tokens [i * block_tokens, …). Chunk 0
    begins at token `first_token` of it. Blocks may be as large as chunks, larger or smaller: what is copied as one is a
    cell, the tokens that chunks and blocks both have whole. Shared by all layers of a group; thread-safe.
    """

    def __init__(
        self,
        block_ids: Sequence[int] | npt.NDArray[np.integer[Any]],
        *,
        block_tokens: int,
        chunk_tokens: int,
        num_chunks: int,
        first_token: int = 0,
    ) -> None:
        """Raises LayoutError when the blocks do not hold the chunks, or one of them twice."""
        if min(block_tokens, chunk_tokens, num_chunks) < 1 or first_token < 0:
            raise LayoutError(
                f"no table of {num_chunks} chunks of {chunk_tokens} tokens from token {first_token} on, in blocks of "
                f"{block_tokens}"
            )
        self.block_tokens = block_tokens
        self.chunk_tokens = chunk_tokens
        self.num_chunks = num_chunks
        self.cell_tokens = gcd(block_tokens, chunk_tokens, first_token)
        ids = np.asarray(block_ids, dtype=np.int64)
        starts = np.arange(first_token, first_token + num_chunks * chunk_tokens, self.cell_tokens)
        if starts[-1] // block_tokens >= len(ids):
            raise LayoutError(
                f"{len(ids)} blocks of {block_tokens} tokens do not hold {num_chunks} chunks of {chunk_tokens} from "
                f"token {first_token} on"
            )
        used = ids[starts[0] // block_tokens : starts[-1] // block_tokens + 1]
        if used.min() < 0 or len(np.unique(used)) != len(used):
            raise LayoutError("a block is in the table twice, or negative")
        self.max_block = int(used.max())
        cells = np.stack((ids[starts // block_tokens], starts % block_tokens // self.cell_tokens))
        self._cells = torch.from_numpy(cells.reshape(2, num_chunks, -1))
        self._uploaded: dict[Any, torch.Tensor] = {}
        self._indices: dict[tuple[Any, int, int], tuple[torch.Tensor, torch.Tensor]] = {}
        self._rows: dict[tuple[int, ...], Rows] = {}
        self._copies: dict[tuple[int, ...], tuple[StridedCopy, ...] | None] = {}

    def index(self, device: torch.device, first: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Block, and cell within it, of each cell of chunks [first, stop): int64 [stop - first, cells a chunk] each.

        On `device`, ordered in its current stream.
        """
        stream = _CUDA.current_stream(device) if device.type == "cuda" else None
        found = self._indices.get((stream, first, stop))
        if found is None:
            cells = self._on_stream(stream, device)
            if len(self._indices) >= _MOST_INDICES:
                self._indices.clear()
            found = self._indices[stream, first, stop] = cells[0, first:stop], cells[1, first:stop]
        return found

    def copies(
        self, first: int, stop: int, pitches_bytes: tuple[int, int], row_bytes: int, slice_bytes: int
    ) -> tuple[StridedCopy, ...] | None:
        """Of one kind of chunks [first, stop), in slices of `slice_bytes` where a cell's `row_bytes` follow another's:
        to where blocks, and cells of a block, are `pitches_bytes` apart. None where they are many."""
        run = (first, stop, *pitches_bytes, row_bytes, slice_bytes)
        kept = self._copies
        if run not in kept:
            if len(kept) >= _MOST_INDICES:
                kept = self._copies = {}
            kept[run] = self._find_copies(*run)
        return kept[run]

    def _find_copies(
        self, first: int, stop: int, block_bytes: int, cell_bytes: int, row_bytes: int, slice_bytes: int
    ) -> tuple[StridedCopy, ...] | None:
        key = (block_bytes, cell_bytes, row_bytes, slice_bytes)
        rows = self._rows.get(key)
        if rows is None:  # layers are mostly alike
            blocks, cells = self._cells.numpy()
            targets = blocks * block_bytes + cells * cell_bytes
            sources = np.add.outer(np.arange(len(blocks)) * slice_bytes, np.arange(blocks.shape[1]) * row_bytes)
            rows = self._rows[key] = Rows(targets.ravel(), sources.ravel(), row_bytes)
        cells_a_chunk = self._cells.shape[2]
        return rows.copies(first * cells_a_chunk, stop * cells_a_chunk, _MOST_COPIES)

    def _on_stream(self, stream: Any, device: torch.device) -> torch.Tensor:
        cells = self._cells
        if stream is not None:
            # One for each stream: nothing orders the upload in one with kernels in another. From pinned memory, since
            # the host would wait for the stream otherwise.
            if stream not in self._uploaded:
                self._uploaded[stream] = self._cells.pin_memory().to(device, non_blocking=True)
            cells = self._uploaded[stream]
        return cells
