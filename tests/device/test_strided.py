"""Copies of rows that are evenly apart: what they move, how few they are, and where there are none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objectcache.device import (
    BlockLayer,
    BlockTable,
    DeviceLoader,
    SliceOrder,
    block_table,
    cuda_registrar,
    paged_kv,
    paged_latent,
)
from objectcache.device.strided import Rows, StridedCopy
from tests.device.caches import CONTIGUOUS, DTYPES, PAGED, Shape, copy_rows, make, random_slices

MANY = 1 << 20


def rows_of(copies: Any) -> list[tuple[int, int, int]]:
    """(target, source, bytes) of each row, cut into single bytes' worth of the same total, in order."""
    return [
        (copy.target + row * copy.target_pitch_bytes, copy.source + row * copy.source_pitch_bytes, copy.row_bytes)
        for copy in copies
        for row in range(copy.rows)
    ]


@given(st.data(), st.integers(1, 4), st.sampled_from([0, 3, 8]))
@settings(max_examples=300, deadline=None)
def test_all_rows_are_copied_once(data: st.DataObject, row: int, between: int) -> None:
    blocks = data.draw(st.lists(st.integers(0, 12), min_size=1, max_size=30) | st.integers(1, 30).map(range))
    targets = np.array(blocks, dtype=np.int64) * data.draw(st.sampled_from([row, 10]))
    sources = np.arange(len(blocks), dtype=np.int64) * (row + between)
    rows = Rows(targets, sources, row)
    first = data.draw(st.integers(0, len(blocks) - 1))
    stop = data.draw(st.integers(first + 1, len(blocks)))
    copies = rows.copies(first, stop, MANY)
    assert copies is not None
    moved = [(to + at, of + at) for to, of, count in rows_of(copies) for at in range(count)]
    pairs = zip(targets[first:stop], sources[first:stop] - sources[first], strict=True)
    assert moved == [(int(target) + at, int(source) + at) for target, source in pairs for at in range(row)]
    assert all(copy.rows == 1 or min(copy[1], copy[3]) >= copy.row_bytes for copy in copies), "CUDA refuses others"
    assert rows.copies(first, stop, len(copies)) == copies
    assert rows.copies(first, stop, len(copies) - 1) is None


def test_what_is_evenly_apart_is_one_copy() -> None:
    at = np.arange(1000, dtype=np.int64)
    assert Rows(at * 64, at * 128, 64).copies(0, 1000, 1) == (StridedCopy(0, 64, 0, 128, 64, 1000),)
    assert Rows(at * 64, at * 128, 64).copies(3, 5, 1) == (StridedCopy(192, 64, 0, 128, 64, 2),)
    assert Rows(at * 64, at * 64, 64).copies(0, 1000, 1) == (StridedCopy(0, 64000, 0, 64000, 64000, 1),)
    assert Rows(at * 256 + 7, at * 128, 64).copies(0, 1000, 1) == (StridedCopy(7, 256, 0, 128, 64, 1000),)


def test_what_is_too_far_apart_for_cuda_is_copied_by_itself() -> None:
    at = np.array([0, 1 << 31, 2 << 31], dtype=np.int64)
    copies = Rows(at, np.arange(3, dtype=np.int64) * 64, 64).copies(0, 3, 3)
    assert copies == tuple(StridedCopy(index << 31, 64, index * 64, 64, 64, 1) for index in range(3))


@pytest.fixture
def any_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("objectcache.device.places.LEAST_ROW_BYTES", 1)


def check(shape: Shape, block_ids: Any, first: int, stop: int) -> bool:
    """Whether there are copies for these chunks; if so they are what `scatter` does."""
    scattered, copied = make(shape, block_ids), make(shape, block_ids)
    slices = torch.from_numpy(random_slices(shape))[first:stop].clone()
    copies = copied.place.copies(first, stop)
    if copies is None:
        return False
    scattered.place.scatter(slices, first)
    copy_rows(copies, slices.data_ptr())
    for found, wanted in zip(copied.raw(), scattered.raw(), strict=True):
        assert torch.equal(found, wanted)
    return True


@pytest.mark.parametrize("order", list(SliceOrder))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", [*PAGED, *CONTIGUOUS])
@pytest.mark.usefixtures("any_row")
def test_copies_do_what_a_scatter_does(layout: str, dtype: torch.dtype, order: SliceOrder) -> None:
    heads, head_size = (1, 20) if "latent" in layout else (3, 8)
    for chunk_tokens, block_tokens in [(8, 8), (16, 4), (4, 16), (12, 8)]:
        shape = Shape(layout, dtype, heads, head_size, chunk_tokens, block_tokens, 5, order=order)
        has = check(shape, list(range(1, shape.num_blocks + 1)), 1, 4)
        # Heads first within a chunk, but tokens first in the cache: rows are of one head of one token.
        alike = (order is SliceOrder.TOKENS) != (layout == "kv-heads-first") or "latent" in layout
        cut = order is SliceOrder.HEADS and chunk_tokens > block_tokens  # a head's tokens are in several blocks
        inner = layout == "kv-heads-first" and chunk_tokens != block_tokens
        assert has == (
            layout in PAGED
            and alike
            and layout != "pair-strided"
            and not (cut and "latent" not in layout)
            and not inner
        )


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_table(data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("objectcache.device.places.LEAST_ROW_BYTES", 1)
        layout = data.draw(st.sampled_from(PAGED))
        chunk, block, chunks = (data.draw(st.integers(1, most)) for most in (9, 9, 6))
        order = data.draw(st.sampled_from(SliceOrder))
        heads = 1 if "latent" in layout else data.draw(st.integers(1, 3))
        first_token = data.draw(st.integers(0, 11))
        shape = Shape(layout, torch.bfloat16, heads, 4, chunk, block, chunks, first_token, order)
        ids = data.draw(st.permutations(range(shape.num_blocks + 3)))[: shape.num_blocks]
        first = data.draw(st.integers(0, chunks - 1))
        check(shape, ids, first, data.draw(st.integers(first + 1, chunks)))


def test_blocks_strewn_about_are_left_to_the_kernel() -> None:
    layer = paged_kv(torch.zeros(2, 64, 16, 8, 128, dtype=torch.bfloat16), chunk_tokens=16)

    def place(ids: Any) -> Any:
        return layer.at(BlockTable(ids, block_tokens=16, chunk_tokens=16, num_chunks=len(ids)))

    assert len(place(range(40)).copies(0, 40)) == 2, "one for K, one for V"
    assert len(place([*range(20, 40), *range(20)]).copies(0, 40)) == 4
    assert place(np.random.default_rng(1).permutation(64)).copies(0, 64) is None


def test_short_rows_are_left_to_the_kernel() -> None:
    table = BlockTable(range(4), block_tokens=4, chunk_tokens=4, num_chunks=4)
    assert paged_latent(torch.zeros(4, 4, 255), chunk_tokens=4).at(table).copies(0, 4) is None
    assert paged_latent(torch.zeros(4, 4, 256), chunk_tokens=4).at(table).copies(0, 4) is not None


def test_whole_blocks_are_one_copy_a_piece() -> None:
    cache = torch.zeros(2, 8, 16, 8, 32)
    blocks = BlockLayer(cache, 8)
    blocks._rows = None  # as on a device
    place = blocks.at(block_table([2, 3, 4]))
    slices = torch.randint(0, 256, (3, blocks.slice_bytes), dtype=torch.uint8)
    copies = place.copies(0, 3)
    assert copies is not None
    assert len(copies) == 2, "all of K, all of V"
    copy_rows(copies, slices.data_ptr())
    found = torch.zeros_like(slices)
    place.gather(found, 0)
    assert torch.equal(found, slices)
    assert cache.view(torch.uint8)[:, 2:5].flatten().any()
    assert not cache.view(torch.uint8)[:, [0, 1, 5, 6, 7]].any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("pinned", [False, True])
def test_on_a_gpu(pinned: bool) -> None:
    """Both ways, and in turn: the last word is the last one's."""
    slices = torch.randint(0, 256, (6, 64, 1 << 16), dtype=torch.uint8)
    cache = torch.zeros(2, 80, 16, 8, 128, dtype=torch.bfloat16, device="cuda")
    layer = paged_kv(cache, chunk_tokens=16)
    tables = (range(5, 69), np.random.default_rng(1).permutation(80)[:64].tolist())
    undo = cuda_registrar(slices.data_ptr(), slices.nbytes) if pinned else lambda: None
    loader = DeviceLoader("cuda")
    placed = None
    for number, source in enumerate(slices):
        place = layer.at(BlockTable(tables[number % 2], block_tokens=16, chunk_tokens=16, num_chunks=64))
        assert (place.copies(0, 64) is None) == bool(number % 2)
        _, placed = loader.queue.move([source.numpy()[:20], source.numpy()[20:]], place, 0, None)
        placed.synchronize()
        found = torch.zeros(64, 1 << 16, dtype=torch.uint8, device="cuda")
        place.gather(found, 0)
        assert torch.equal(found.cpu(), source)
    undo()


def test_copies_are_kept_for_what_they_are_of() -> None:
    """Runs of one table, and caches whose blocks are otherwise apart."""
    table = BlockTable(range(6), block_tokens=4, chunk_tokens=4, num_chunks=6)
    found = {
        (first, stop, pitch): table.copies(first, stop, (pitch, 4096), 4096, 8192)
        for pitch in (8192, 16384)
        for first, stop in ((0, 3), (0, 6), (2, 6))
        for _ in range(2)
    }
    for (first, stop, pitch), copies in found.items():
        assert copies is not None
        (copy,) = copies
        assert (copy.target, copy.target_pitch_bytes, copy.rows) == (first * pitch, pitch, stop - first)


def test_few_copies_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("objectcache.device.tables._MOST_INDICES", 3)
    table = BlockTable(range(6), block_tokens=4, chunk_tokens=4, num_chunks=6)
    for stop in range(1, 7):
        assert table.copies(0, stop, (8192, 4096), 4096, 8192)
        assert len(table._copies) <= 3
