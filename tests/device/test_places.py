"""Scatter and gather are, bit for bit, what a loop over slices and tokens does; and touch nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objectcache.device import (
    BlockTable,
    SliceOrder,
    contiguous_kv,
    contiguous_latent,
    paged_kv,
    paged_latent,
    paged_pair,
)
from objectcache.errors import LayoutError
from tests.device.caches import CONTIGUOUS, DTYPES, PAGED, Shape, make, random_slices

RELATIONS = [(8, 8), (16, 4), (4, 16), (12, 8)]  # chunk_tokens, block_tokens


def check(shape: Shape, block_ids: Any = (), device: str = "cpu", pieces: int = 1) -> None:
    slices = random_slices(shape)
    expected = make(shape, block_ids)
    expected.put(slices)
    cache = make(shape, block_ids, device=device)
    step = -(-shape.num_chunks // pieces)
    for first in range(0, shape.num_chunks, step):
        cache.place.scatter(torch.from_numpy(slices[first : first + step]).to(device), first)
    for found, wanted in zip(cache.raw(), expected.raw(), strict=True):
        assert torch.equal(found, wanted)
    for first in range(0, shape.num_chunks, step):
        back = torch.zeros(slices[first : first + step].shape, dtype=torch.uint8, device=device)
        cache.place.gather(back, first)
        assert torch.equal(back.cpu(), torch.from_numpy(slices[first : first + step]))


def check_layout(layout: str, dtype: torch.dtype, order: SliceOrder, device: str = "cpu") -> None:
    heads, head_size = (1, 20) if "latent" in layout else (3, 8)
    if layout in CONTIGUOUS:
        check(Shape(layout, dtype, heads, head_size, 4, 4, 5, first_token=3, order=order), device=device)
        return
    for chunk_tokens, block_tokens in RELATIONS:
        shape = Shape(layout, dtype, heads, head_size, chunk_tokens, block_tokens, 5, order=order)
        check(shape, list(range(shape.num_blocks + 2))[:1:-1], device)


@pytest.mark.parametrize("order", list(SliceOrder))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", [*PAGED, *CONTIGUOUS])
def test_every_layout(layout: str, dtype: torch.dtype, order: SliceOrder) -> None:
    check_layout(layout, dtype, order)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("layout", [*PAGED, *CONTIGUOUS])
def test_every_layout_on_a_gpu(layout: str) -> None:
    for dtype, order in itertools.product(DTYPES, SliceOrder):
        check_layout(layout, dtype, order, "cuda")


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_shape(data: st.DataObject) -> None:
    layout = data.draw(st.sampled_from([*PAGED, *CONTIGUOUS]))
    dtype = data.draw(st.sampled_from(DTYPES))
    heads = 1 if "latent" in layout else data.draw(st.integers(1, 3))
    head_size = data.draw(st.integers(1, 9))
    chunk = data.draw(st.integers(1, 9))
    block = data.draw(st.integers(1, 9))
    chunks = data.draw(st.integers(1, 6))
    first = data.draw(st.integers(0, 11))
    order = data.draw(st.sampled_from(SliceOrder))
    shape = Shape(layout, dtype, heads, head_size, chunk, block, chunks, first, order)
    block_ids = data.draw(st.permutations(range(shape.num_blocks + 3)))[: shape.num_blocks]
    check(shape, block_ids, pieces=data.draw(st.integers(1, chunks)))


def test_blocks_are_moved_whole_where_their_inside_is_not_ours() -> None:
    cache = torch.randint(0, 256, (6, 2, 4, 10), dtype=torch.uint8)
    before = cache.clone()
    opaque = paged_latent(cache.view(6, 1, -1), chunk_tokens=1)
    place = opaque.at(BlockTable([5, 0, 3], block_tokens=1, chunk_tokens=1, num_chunks=3))
    assert place.slice_bytes == 80
    slices = torch.randint(0, 256, (3, 80), dtype=torch.uint8)
    place.scatter(slices, 0)
    for chunk, block in enumerate((5, 0, 3)):
        assert torch.equal(cache[block].flatten(), slices[chunk])
    assert torch.equal(cache[[1, 2, 4]], before[[1, 2, 4]])


def test_words_are_wide_where_memory_allows() -> None:
    plain = paged_kv(torch.zeros(2, 3, 4, 2, 8, dtype=torch.bfloat16), chunk_tokens=4)
    odd = paged_kv(torch.zeros(2, 3, 4, 2, 7, dtype=torch.bfloat16), chunk_tokens=4)
    shifted = paged_kv(torch.zeros(2, 3, 4, 2, 10, dtype=torch.bfloat16)[..., 2:], chunk_tokens=4)
    narrow = paged_latent(torch.zeros(3, 4, 12, dtype=torch.uint8), chunk_tokens=4)
    assert [layer.word_bytes for layer in (plain, odd, shifted, narrow)] == [16, 2, 4, 4]


def test_caches_made_in_inference_mode_and_with_gradients() -> None:
    with torch.inference_mode():
        cache = torch.zeros(2, 3, 4, 2, 8)
    layer = paged_kv(cache, chunk_tokens=4)
    place = layer.at(BlockTable([2], block_tokens=4, chunk_tokens=4, num_chunks=1))
    slices = torch.randint(0, 256, (1, place.slice_bytes), dtype=torch.uint8)
    with torch.inference_mode():
        place.scatter(slices, 0)
    assert torch.equal(cache[:, 2].contiguous().view(torch.uint8).flatten(), slices[0])
    leaf = torch.zeros(1, 2, 4, 8, requires_grad=True)
    contiguous_kv(leaf, leaf.clone(), chunk_tokens=4, num_chunks=1).scatter(slices, 0)
    assert leaf.detach().any()


@pytest.mark.parametrize(
    "table",
    [
        {"block_ids": [0, 1], "num_chunks": 3},  # too few
        {"block_ids": [0, 1], "num_chunks": 2, "first_token": 1},
        {"block_ids": [1, 1], "num_chunks": 2},  # twice
        {"block_ids": [0, -1], "num_chunks": 2},
        {"block_ids": [0], "num_chunks": 0},
        {"block_ids": [], "num_chunks": 1},
        {"block_ids": [0, 1], "num_chunks": 1, "first_token": -1},
    ],
)
def test_tables_that_hold_no_chunks_are_refused(table: dict[str, Any]) -> None:
    with pytest.raises(LayoutError):
        BlockTable(table.pop("block_ids"), block_tokens=4, chunk_tokens=4, **table)


def test_blocks_outside_the_chunks_are_not_looked_at() -> None:
    table = BlockTable([9, 9, 2, 1, 9], block_tokens=4, chunk_tokens=4, num_chunks=2, first_token=8)
    assert table.max_block == 2


def test_what_does_not_fit_is_refused() -> None:
    cache = torch.zeros(2, 3, 4, 2, 8)
    layer = paged_kv(cache, chunk_tokens=4)
    refused: list[Callable[[], Any]] = [
        lambda: layer.at(BlockTable([3], block_tokens=4, chunk_tokens=4, num_chunks=1)),
        lambda: layer.at(BlockTable([0], block_tokens=8, chunk_tokens=4, num_chunks=1)),
        lambda: layer.at(BlockTable([0], block_tokens=4, chunk_tokens=2, num_chunks=1)),
        lambda: paged_kv(cache, chunk_tokens=4, kinds_dim=1),
        lambda: paged_kv(cache[0], chunk_tokens=4),
        lambda: paged_kv(cache.to(torch.complex128), chunk_tokens=4),
        lambda: paged_latent(cache, chunk_tokens=4),
        lambda: paged_pair(cache[0], cache[1].half(), chunk_tokens=4),
        lambda: contiguous_kv(cache[0], cache[1][:, :2], chunk_tokens=2, num_chunks=1),
        lambda: contiguous_kv(cache[0], cache[1], chunk_tokens=2, num_chunks=2),
        lambda: contiguous_kv(cache[0], cache[1], chunk_tokens=2, num_chunks=1, row=3),
        lambda: contiguous_latent(cache[0, 0], chunk_tokens=2, num_chunks=2, first_token=1),
        lambda: contiguous_latent(cache, chunk_tokens=2, num_chunks=2),
    ]
    for call in refused:
        with pytest.raises(LayoutError):
            call()
