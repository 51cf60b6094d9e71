"""What a local tier holds, put in its place before it is known what matches."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from objectcache.cache.in_place import InPlace
from objectcache.device import BlockTable, DeviceAhead, DeviceLoader, paged_kv
from objectcache.errors import LayoutError
from tests.device.world import CHUNKS, World


def flat(world: World, part: int, layer: int) -> npt.NDArray[np.uint8]:
    """The delivery's memory of it: uint8 [CHUNKS, slice_bytes]."""
    start = world.geometry.offset(part, layer)
    return world.memory[start : start + world.geometry.layer_bytes(part, layer)].reshape(CHUNKS, -1)


def take(world: World, ahead: DeviceAhead, part: int, layer: int, chunks: int, cut: int = 1) -> None:
    """The first `chunks` of what is to come, in two arrays; they are nowhere else any more."""
    held = flat(world, part, layer)[:chunks]
    ahead.take(part, layer, [held[:cut].copy(), held[cut:].copy()])


def in_place(world: World, part: int, layer: int) -> torch.Tensor:
    place = world.places[part, layer]
    slices = torch.zeros(CHUNKS, place.slice_bytes, dtype=torch.uint8)
    place.gather(slices, 0)
    return slices


@pytest.mark.parametrize("chunks", [2, 4, CHUNKS])
@pytest.mark.parametrize("layer", [0, 1])
def test_what_was_taken_is_not_moved_again(loader: DeviceLoader, chunks: int, layer: int) -> None:
    world = World()
    expected = {(part, at): world.landed(part, at) for part, at in world.places}
    ahead = loader.ahead(world.places)
    take(world, ahead, 0, layer, chunks)
    flat(world, 0, layer)[:chunks] = 0  # so that whoever reads it from there has it wrong
    world.retrieval.read_in_place(InPlace(world.geometry, world.memory.data), ahead)
    with loader.load(world.retrieval, world.places, ahead=ahead) as loading:
        for unit in range(3):
            world.retrieval.land(unit)
        for at in range(3):
            loading.wait(at, timeout_s=20)
        assert loading.join(20)
    for part, at in world.places:
        assert torch.equal(in_place(world, part, at), expected[part, at]), (part, at)


def test_what_does_not_count_is_moved(loader: DeviceLoader) -> None:
    """The store had other versions than were held, say."""
    world = World()
    expected = world.landed(0, 0)
    ahead = loader.ahead(world.places)
    ahead.take(0, 0, [255 - flat(world, 0, 0)])
    assert torch.equal(in_place(world, 0, 0), 255 - expected)
    world.retrieval.land(0)
    with loader.load(world.retrieval, world.places, ahead=ahead) as loading:
        loading.wait(0, timeout_s=20)
        assert torch.equal(in_place(world, 0, 0), expected)


def test_less_comes_than_was_taken(loader: DeviceLoader) -> None:
    """All of what comes is moved."""
    world = World()
    wide = [torch.zeros(2, CHUNKS + 2, 4, 2, 8, dtype=torch.bfloat16) for _ in range(2)]
    table = BlockTable(range(CHUNKS + 2), block_tokens=4, chunk_tokens=4, num_chunks=CHUNKS + 2)
    more = paged_kv(wide[0], chunk_tokens=4).at(table)
    ahead = loader.ahead({(0, 0): more})
    ahead.take(0, 0, [np.full((CHUNKS + 2, more.slice_bytes), 7, np.uint8)])
    world.retrieval.read_in_place(InPlace(world.geometry, world.memory.data), ahead)
    fewer = BlockTable(range(CHUNKS), block_tokens=4, chunk_tokens=4, num_chunks=CHUNKS)
    places = {**world.places, (0, 0): paged_kv(wide[0], chunk_tokens=4).at(fewer)}
    world.retrieval.land(0)
    with loader.load(world.retrieval, places, ahead=ahead) as loading:
        loading.wait(0, timeout_s=20)
        slices = torch.zeros(CHUNKS, more.slice_bytes, dtype=torch.uint8)
        places[0, 0].gather(slices, 0)
        assert torch.equal(slices, world.landed(0, 0))


@pytest.mark.parametrize("ended", ["wait", "forbid", "left", "loaded"])
def test_nothing_is_taken_any_more(loader: DeviceLoader, ended: str) -> None:
    world = World()
    with loader.ahead(world.places) as ahead:
        if ended == "loaded":
            world.retrieval.read_in_place(InPlace(world.geometry, world.memory.data), ahead)
            loader.load(world.retrieval, world.places, ahead=ahead).close()
        elif ended != "left":
            getattr(ahead, ended)()
    ahead.take(0, 0, [flat(world, 0, 0)])
    assert not in_place(world, 0, 0).any()
    assert not ahead.taken


def test_places_of_some_layers(loader: DeviceLoader) -> None:
    world = World()
    ahead = loader.ahead({(0, 0): world.places[0, 0]})
    take(world, ahead, 0, 0, 3)
    take(world, ahead, 0, 1, 3)
    assert ahead.taken == {(0, 0): 3}
    assert not in_place(world, 0, 1).any()


def test_more_than_the_place_takes(loader: DeviceLoader) -> None:
    world = World()
    held = flat(world, 0, 0)
    for blocks in ([held, held[:1]], [held[:, :-16]]):
        with pytest.raises(LayoutError):
            loader.ahead(world.places).take(0, 0, [np.ascontiguousarray(block) for block in blocks])
    assert not in_place(world, 0, 0).any()
