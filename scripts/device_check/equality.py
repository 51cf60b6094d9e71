"""Bit for bit: every layout against the plainest loop, then whole layers through the loader and the saver."""

from __future__ import annotations

import itertools

import torch
from tests.device.caches import CONTIGUOUS, DTYPES, PAGED, Shape, make, random_slices

from device_check.world import World
from objectcache.device import SliceOrder


def check_equality(world: World) -> None:
    """Raises AssertionError."""
    checked = _small(world)
    for name, places in world.layouts():
        world.clear(places)
        retrieval = world.landed(places)
        expected = [torch.from_numpy(retrieval.view(layer).copy()) for layer in range(world.num_layers)]
        with world.loader.load(retrieval, places) as loading:
            for layer in range(world.num_layers):
                loading.wait(layer)
                with torch.inference_mode():
                    got = torch.empty(world.shape(places), dtype=torch.uint8, device=world.device)
                    places[0, layer].gather(got, 0)  # in the compute stream, right behind the wait
                assert torch.equal(got.cpu(), expected[layer]), f"{name}: layer {layer} is wrong"
        out = torch.empty(expected[0].shape, dtype=torch.uint8)
        for layer in range(world.num_layers):
            world.saver.source(places[0, layer]).copy_into(out.numpy().reshape(-1).data)
            assert torch.equal(out, expected[layer]), f"{name}: layer {layer} is saved wrongly"
        checked += world.num_layers
    world.summary["equal"] = checked
    print(f"  {checked} scatters and gathers are equal, bit for bit", flush=True)


def _small(world: World) -> int:
    checked = 0
    for layout, dtype, order in itertools.product([*PAGED, *CONTIGUOUS], DTYPES, SliceOrder):
        heads, head_size = (1, 20) if "latent" in layout else (3, 8)
        for chunk, block in [(8, 8), (16, 4), (4, 16), (12, 8)][: None if layout in PAGED else 1]:
            shape = Shape(layout, dtype, heads, head_size, chunk, block, 5, order=order)
            ids = list(range(shape.num_blocks + 2))[:1:-1]
            expected, slices = make(shape, ids), random_slices(shape)
            expected.put(slices)
            cache = make(shape, ids, device=world.device.type)
            cache.place.scatter(torch.from_numpy(slices).to(world.device), 0)
            assert all(map(torch.equal, cache.raw(), expected.raw())), f"{shape}: scattered wrongly"
            back = torch.zeros(slices.shape, dtype=torch.uint8, device=world.device)
            cache.place.gather(back, 0)
            assert torch.equal(back.cpu(), torch.from_numpy(slices)), f"{shape}: gathered wrongly"
            checked += 1
    return checked
