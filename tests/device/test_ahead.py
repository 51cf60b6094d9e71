"""What a local tier holds, put in its place before it is known what matches."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest
import torch

from objectcache.cache.in_place import InPlace
from objectcache.device import BlockTable, DeviceAhead, DeviceLoader, paged_kv
from objectcache.errors import LayoutError
from tests.device.late import LateWorld
from tests.device.world import CHUNKS, World

LEAST_ROW_BYTES = (1, 150, 4096)


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
    ahead = loader.ahead(world.places)
    assert ahead.begin()
    if ended == "loaded":
        world.retrieval.read_in_place(InPlace(world.geometry, world.memory.data), ahead)
        loader.load(world.retrieval, world.places, ahead=ahead).close()
    elif ended == "left":
        with ahead:
            pass
    else:
        getattr(ahead, ended)()
    ahead.take(0, 0, [flat(world, 0, 0)])
    assert not in_place(world, 0, 0).any()
    assert not ahead.taken


def test_it_is_of_one_request(loader: DeviceLoader) -> None:
    ahead = loader.ahead(World().places)
    assert [ahead.begin(), ahead.begin()] == [True, False]
    ended = loader.ahead(World().places)
    ended.forbid()
    assert not ended.begin()


def test_places_that_are_still_used(loader: DeviceLoader, monkeypatch: pytest.MonkeyPatch) -> None:
    for is_over in (False, True):
        monkeypatch.setattr(
            "objectcache.device.loading.current_mark", lambda *_, over=is_over: SimpleNamespace(query=lambda: over)
        )
        assert loader.ahead(World().places).begin() is is_over
        assert loader.ahead(World().places, idle=True).begin()


def test_what_engines_made_can_be_written(loader: DeviceLoader) -> None:
    with torch.inference_mode():
        cache = torch.zeros(2, CHUNKS, 4, 2, 8, dtype=torch.bfloat16)
    table = BlockTable(range(CHUNKS), block_tokens=4, chunk_tokens=4, num_chunks=CHUNKS)
    place = paged_kv(cache, chunk_tokens=4).at(table)
    loader.ahead({(0, 0): place}).take(0, 0, [np.full((CHUNKS, place.slice_bytes), 7, np.uint8)])
    assert (cache.view(torch.uint8) == 7).all()


def test_spans_are_moved(loader: DeviceLoader) -> None:
    world = World()
    whole = world.places[0, 0]
    table = BlockTable([4, 1, 3], block_tokens=4, chunk_tokens=4, num_chunks=3)
    places = {(0, layer): paged_kv(world.kv[layer], chunk_tokens=4).at(table) for layer in range(2)}
    ahead = loader.ahead({(0, 0): whole})
    ahead.take(0, 0, [255 - flat(world, 0, 0)])
    world.retrieval.read_in_place(InPlace(world.geometry, world.memory.data), ahead)
    world.retrieval.land(0)
    with loader.load(world.retrieval, dict(places), spans={0: (2, 5)}, ahead=ahead) as loading:
        loading.wait(0, timeout_s=20)
        slices = torch.zeros(3, whole.slice_bytes, dtype=torch.uint8)
        places[0, 0].gather(slices, 0)
        assert torch.equal(slices, world.landed(0, 0)[2:5])


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


# -- streams that are as late as they may be ----------------------------------------------------------


@pytest.fixture(params=range(12))
def late(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> LateWorld:
    """All layers go straight to their places, or some, or none."""
    monkeypatch.setattr("objectcache.device.places.LEAST_ROW_BYTES", LEAST_ROW_BYTES[request.param % 3])
    world = LateWorld(request.param)
    world.install(monkeypatch)
    return world


def late_loader() -> DeviceLoader:
    return DeviceLoader("cpu", staged=True, staging_bytes=1000, num_staging=2, strided=True)


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("chunks", [3, CHUNKS])
@pytest.mark.parametrize("same", [True, False])
def test_the_engine_finds_it(late: LateWorld, chunks: int, counts: bool, same: bool) -> None:
    """Whether it counts or not, and whose loader has taken it."""
    loader, world = late_loader(), World()
    expected = {key: world.landed(*key) for key in world.places}
    ahead = (loader if same else late_loader()).ahead(world.places, idle=True)
    for part, layer in world.places:
        held = flat(world, part, layer)[:chunks]
        ahead.take(part, layer, [held.copy() if counts else 255 - held])
    if counts:
        world.retrieval.read_in_place(InPlace(world.geometry, world.memory.data), ahead)
    loading = loader.load(world.retrieval, world.places, ahead=ahead, idle=True)
    for unit in range(3):
        world.retrieval.land(unit)
    found = {key: torch.zeros(slices.shape, dtype=torch.uint8) for key, slices in expected.items()}
    for (part, layer), slices in found.items():
        loading.wait(layer, timeout_s=20)
        with late.compute():
            world.places[part, layer].gather(slices, 0)
    assert loading.join(20)
    late.finish()
    for key, slices in found.items():
        assert torch.equal(slices, expected[key]), key


def test_the_memory_is_free_after_a_wait(late: LateWorld) -> None:
    world = World()
    ahead = late_loader().ahead(world.places, idle=True)
    held = flat(world, 0, 0).copy()
    ahead.take(0, 0, [held])
    ahead.wait()
    held[:] = 0
    late.finish()
    assert torch.equal(in_place(world, 0, 0), world.landed(0, 0))


@pytest.mark.parametrize("how", ["left", "waited for", "forbidden", "not loaded", "closed", "of no use"])
def test_the_places_are_somebody_elses_then(late: LateWorld, how: str) -> None:
    loader, world = late_loader(), World()
    caches = world.kv + world.latent
    loading = None
    with ExitStack() as stack:
        ahead = loader.ahead(world.places, idle=True)
        if how != "of no use":
            stack.enter_context(ahead)
        ahead.take(0, 0, [flat(world, 0, 0)])
        if how == "waited for":  # as caches do, where nothing matches
            ahead.wait()
        if how == "forbidden":
            ahead.forbid()
        if how in ("not loaded", "closed"):
            world.retrieval.read_in_place(InPlace(world.geometry, world.memory.data), ahead)
        if how == "not loaded":
            with pytest.raises(LayoutError):
                loader.load(world.retrieval, {}, ahead=ahead)
            ahead.wait()
        if how in ("closed", "of no use"):
            with late.lock:
                loading = loader.load(world.retrieval, world.places, ahead=ahead, idle=True)
                loading.forbid()
    with late.compute():
        for cache in caches:
            cache.copy_(torch.full_like(cache, 3))
    late.finish()
    assert all(bool((cache == 3).all()) for cache in caches)
    if loading is not None:
        loading.close()
        assert loading.join(20)
