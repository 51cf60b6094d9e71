"""Whole blocks as opaque bytes, in every shape that engines' caches have."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from objectcache.device import BlockLayer, block_table
from objectcache.errors import LayoutError

BLOCKS = 12

CACHES: dict[str, Callable[[], torch.Tensor]] = {
    "cpu": lambda: torch.empty(BLOCKS, 2, 32, 16, dtype=torch.bfloat16),
    "kinds first": lambda: torch.empty(2, BLOCKS, 16, 2, 8, dtype=torch.float16),
    "blocks first": lambda: torch.empty(BLOCKS, 2, 16, 2, 8, dtype=torch.float8_e4m3fn),
    "kinds first, heads before tokens": lambda: torch.empty(2, BLOCKS, 2, 16, 8).permute(0, 1, 3, 2, 4),
    "blocks first, heads before tokens": lambda: torch.empty(BLOCKS, 2, 2, 16, 8).permute(0, 1, 3, 2, 4),
    "latent": lambda: torch.empty(BLOCKS, 16, 36, dtype=torch.bfloat16),
    "odd bytes": lambda: torch.empty(BLOCKS, 5, 7, dtype=torch.uint8),
    "padded pages": lambda: torch.empty(BLOCKS, 1000).as_strided((BLOCKS, 16, 4, 8), (1000, 32, 8, 1)),
    "of a shared storage": lambda: torch.empty(BLOCKS, 3, 16, 8)[:, 1],
    "kernel blocks": lambda: torch.empty(2, 4 * BLOCKS, 4, 2, 8),
}


def filled(name: str) -> torch.Tensor:
    cache = CACHES[name]()
    noise = torch.randint(0, 256, (cache.numel() * cache.element_size(),), dtype=torch.uint8)
    return cache.copy_(noise.view(cache.dtype).view(cache.shape))


def block_of(cache: torch.Tensor, number: int) -> torch.Tensor:
    """What is in a block, as engines see it."""
    dim = next(dim for dim, size in enumerate(cache.shape) if size % BLOCKS == 0)
    factor = cache.shape[dim] // BLOCKS
    return cache.narrow(dim, number * factor, factor)


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))


@pytest.mark.parametrize("by_kernel", [False, True])
@pytest.mark.parametrize("name", CACHES)
def test_blocks_come_back_whole_in_other_places(name: str, by_kernel: bool) -> None:
    source, target = filled(name), filled(name)
    before = target.clone()
    took, put = [7, 8, 9, 2, 11], [3, 4, 10, 1, 6]
    layers = [BlockLayer(cache, BLOCKS) for cache in (source, target)]
    if by_kernel:  # as on a device
        for layer in layers:
            layer._rows = None
    slices = torch.zeros(len(took), layers[0].slice_bytes, dtype=torch.uint8)
    assert layers[0].slice_bytes == source.numel() * source.element_size() // BLOCKS
    layers[0].at(block_table(took)).gather(slices, 0)
    place = layers[1].at(block_table(put))
    place.scatter(slices[2:], 2)
    place.scatter(slices[:2], 0)
    for one, other in zip(took, put, strict=True):
        assert same(block_of(source, one), block_of(target, other))
    for other in set(range(BLOCKS)) - set(put):
        assert same(block_of(before, other), block_of(target, other)), "nothing else is written"


def test_both_ways_make_the_same_slices() -> None:
    cache = filled("kinds first, heads before tokens")
    found = []
    for by_kernel in (False, True):
        layer = BlockLayer(cache, BLOCKS)
        if by_kernel:
            layer._rows = None
        slices = torch.zeros(3, layer.slice_bytes, dtype=torch.uint8)
        layer.at(block_table([5, 6, 0])).gather(slices, 0)
        found.append(slices)
    assert torch.equal(*found)


def test_what_is_no_cache_of_so_many_blocks() -> None:
    with pytest.raises(LayoutError, match="counts 5 blocks"):
        BlockLayer(torch.empty(12, 16), 5)
    with pytest.raises(LayoutError, match="uneven"):
        BlockLayer(torch.empty(BLOCKS, 4, 6, 8)[:, :2, :3, :4], BLOCKS)
    layer = BlockLayer(filled("cpu"), BLOCKS)
    with pytest.raises(LayoutError):
        layer.at(block_table([BLOCKS]))
    with pytest.raises(LayoutError):
        block_table([3, 3])
