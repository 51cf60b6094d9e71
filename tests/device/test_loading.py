"""Layers that land late, and waits that end with just the layer they are for."""

from __future__ import annotations

import gc
import random
import threading
import time
import weakref
from typing import Any

import pytest
import torch

from objectcache.cache.in_place import InPlace
from objectcache.device import BlockTable, DeviceLoader, DeviceRetrieval, Place, contiguous_kv, paged_kv
from objectcache.errors import (
    DeliveryCancelledError,
    DeliveryError,
    DeliveryTimeoutError,
    IntegrityError,
    LayoutError,
    NotSupportedError,
)
from objectcache.layout import Chunks
from tests.device.world import CHUNKS, World

CPU = torch.device("cpu")


@pytest.mark.parametrize("layers_per_unit", [1, 2, 5])
def test_everything_comes_to_its_place(loader: DeviceLoader, layers_per_unit: int) -> None:
    world = World(layers_per_unit)
    with loader.load(world.retrieval, world.places) as loading:
        for unit in range(len(world.geometry.units)):
            world.retrieval.land(unit)
        for layer in range(3):
            loading.wait(layer, timeout_s=20)
            assert world.holds(layer)
        assert loading.join(20)
        assert world.closed == [True], "the host's memory goes back without anybody asking"
        loading.wait(0)
    assert loading.error is None
    assert world.closed == [True]


def test_spans_of_parts_come_to_their_places(loader: DeviceLoader) -> None:
    world = World()
    world.retrieval.land(0)
    world.retrieval.land(1)
    world.retrieval.land(2)
    table = BlockTable([4, 1], block_tokens=4, chunk_tokens=4, num_chunks=2)
    places: dict[tuple[int, int], Place] = {
        (0, layer): paged_kv(world.kv[layer], chunk_tokens=4).at(table) for layer in range(2)
    }
    with loader.load(world.retrieval, places, spans={0: (3, 5)}) as loading:
        assert loading.join(20)
        for layer in range(3):
            loading.wait(layer)
    for layer in range(2):
        slices = torch.zeros(2, places[0, layer].slice_bytes, dtype=torch.uint8)
        places[0, layer].gather(slices, 0)
        assert torch.equal(slices, world.landed(0, layer)[3:5])
        others = [block for block in range(CHUNKS) if block not in (4, 1)]
        assert not world.kv[layer][:, others].any()
    assert not any(latent.any() for latent in world.latent), "a part without a span goes nowhere"


@pytest.mark.parametrize("span", [(0, 7), (2, 2), (-1, 3), (0, 3)])
def test_spans_that_places_do_not_take(loader: DeviceLoader, span: tuple[int, int]) -> None:
    world = World()
    with pytest.raises(LayoutError):
        loader.load(world.retrieval, world.places, spans={0: span})
    assert world.closed == []


def test_nothing_is_written_once_it_is_forbidden(loader: DeviceLoader) -> None:
    world = World()
    loading = loader.load(world.retrieval, world.places)
    world.retrieval.land(0)
    loading.wait(0, timeout_s=20)
    loading.forbid()
    world.retrieval.land(1)
    with pytest.raises(DeliveryCancelledError):
        loading.wait(1, timeout_s=20)
    assert loading.join(20), "what lands then makes it end"
    assert world.holds(0)
    assert not world.latent[0].any()
    assert not world.kv[1].any()
    loading.close()
    assert len(world.closed) == 1


def test_a_wait_is_for_one_layer(loader: DeviceLoader) -> None:
    world = World()
    with loader.load(world.retrieval, world.places) as loading:
        for layer in range(3):
            assert not loading.is_queued(layer)
            with pytest.raises(DeliveryTimeoutError):
                loading.wait(layer, timeout_s=0.01)
            world.retrieval.land(layer)  # a wait for any later layer would never end
            loading.wait(layer, timeout_s=20)
            assert [world.holds(other) for other in range(3)] == [other <= layer for other in range(3)]


def test_a_waiting_engine_goes_on_when_its_layer_lands(loader: DeviceLoader) -> None:
    world = World()
    passed: list[tuple[int, bool]] = []

    def engine(loading: DeviceRetrieval) -> None:
        for layer in range(3):
            loading.wait(layer)
            passed.append((layer, world.holds(layer)))
            landed.release()

    landed = threading.Semaphore(0)
    with loader.load(world.retrieval, world.places) as loading:
        thread = threading.Thread(target=engine, args=(loading,))
        thread.start()
        for layer in range(3):
            assert passed == [(before, True) for before in range(layer)]
            world.retrieval.land(layer)
            assert landed.acquire(timeout=20)
        thread.join(20)
    assert passed == [(0, True), (1, True), (2, True)]


def test_what_landed_before_a_failure_stays_good(loader: DeviceLoader) -> None:
    world = World()
    failure = IntegrityError("damaged")
    with loader.load(world.retrieval, world.places) as loading:
        world.retrieval.land(0)
        world.retrieval.fail(failure)
        for layer in (1, 2):
            with pytest.raises(IntegrityError):
                loading.wait(layer, timeout_s=20)
        loading.wait(0, timeout_s=20)
        assert world.holds(0)
        assert loading.error is failure
        assert loading.join(20)
        assert world.closed == [False]


def test_a_late_layer_ends_with_the_deadline(loader: DeviceLoader) -> None:
    world = World(deadline_s=0.05)
    with loader.load(world.retrieval, world.places) as loading, pytest.raises(DeliveryTimeoutError):
        loading.wait(0)
    assert world.closed == [False]


def test_closing_cancels_what_has_not_landed(loader: DeviceLoader) -> None:
    world = World()
    loading = loader.load(world.retrieval, world.places)
    world.retrieval.land(0)
    loading.wait(0, timeout_s=20)
    loading.close()
    assert world.closed == [False]
    world.retrieval.land(1)
    assert loading.join(20)
    assert not world.holds(1)
    with pytest.raises(DeliveryCancelledError):
        loading.wait(1)
    loading.close()


def test_an_unexpected_failure_reaches_the_engine(loader: DeviceLoader) -> None:
    world = World()

    class Broken:
        device, num_chunks, slice_bytes = CPU, CHUNKS, world.places[0, 1].slice_bytes

        def scatter(self, slices: torch.Tensor, first: int) -> None:
            raise RuntimeError("no kernel")

        def gather(self, slices: torch.Tensor, first: int) -> None:
            raise AssertionError

        def copies(self, first: int, stop: int) -> None:
            return None

    world.places[0, 1] = Broken()
    for layer in range(3):
        world.retrieval.land(layer)
    with loader.load(world.retrieval, world.places) as loading:
        with pytest.raises(DeliveryError, match="no kernel"):
            loading.wait(1, timeout_s=20)
        loading.wait(0)
        assert loading.join(20)
        assert world.closed == [True]


def test_several_deliveries_share_a_loader(loader: DeviceLoader) -> None:
    worlds = [World(layers_per_unit=1 + index % 3) for index in range(5)]
    loadings = [loader.load(world.retrieval, world.places) for world in worlds]
    for unit in range(3):
        for world in worlds:
            if unit < len(world.geometry.units):
                world.retrieval.land(unit)
    for world, loading in zip(worlds, loadings, strict=True):
        assert loading.join(20)
        assert [world.holds(layer) for layer in range(3)] == [True] * 3
        loading.close()


def test_caches_made_in_inference_mode_are_filled() -> None:
    with torch.inference_mode():
        world = World()
    world.retrieval.land(0)
    with DeviceLoader("cpu").load(world.retrieval, world.places) as loading:
        loading.wait(0, timeout_s=20)
        assert world.holds(0)


def test_places_that_do_not_fit_are_refused() -> None:
    world = World()
    loader = DeviceLoader("cpu")
    states = torch.zeros(1, 2, 4 * CHUNKS, 8, dtype=torch.bfloat16)
    few = contiguous_kv(states, states.clone(), chunk_tokens=4, num_chunks=CHUNKS - 1)
    wrong: list[dict[tuple[int, int], Any]] = [
        {key: place for key, place in world.places.items() if key != (1, 1)},
        {**world.places, (1, 2): world.places[0, 0]},
        {**world.places, (0, 0): few},
    ]
    for places in wrong:
        with pytest.raises(LayoutError):
            loader.load(world.retrieval, places)
    with loader.load(world.retrieval, world.places) as loading, pytest.raises(LayoutError, match="not delivered"):
        loading.wait(7)
    with pytest.raises(NotSupportedError):
        DeviceLoader("meta")


def test_nothing_is_kept_of_a_delivery_that_is_over() -> None:
    world = World()
    loading = DeviceLoader("cpu").load(world.retrieval, world.places)
    for layer in range(3):
        world.retrieval.land(layer)
    assert loading.join(20)
    place = weakref.ref(world.places[0, 0])
    del world
    gc.collect()
    assert place() is None, "though the retrieval is still here"
    loading.wait(2)


def cut(world: World, rng: random.Random) -> list[tuple[int, Chunks, bool]]:
    """(unit, chunks, whether they are its last), units in order, what is in them in any."""
    found = []
    for unit, layers in enumerate(world.geometry.units):
        mine = [
            Chunks(part, layer, first, min(first + 2, CHUNKS))
            for layer in layers
            for part in world.geometry.parts_of(layer)
            for first in range(0, CHUNKS, 2)
        ]
        rng.shuffle(mine)
        found += [(unit, chunks, chunks is mine[-1]) for chunks in mine]
    return found


@pytest.mark.parametrize("seed", range(10))
def test_sections_come_to_their_places_before_their_layer_is_whole(loader: DeviceLoader, seed: int) -> None:
    world = World()
    rng = random.Random(seed)
    with loader.load(world.retrieval, world.places) as loading:
        for unit, chunks, whole in cut(world, rng):
            (layer,) = world.geometry.units[unit]
            assert not loading.is_queued(layer)
            world.retrieval.land_chunks(unit, [chunks], whole=whole)
            until_s = time.perf_counter() + 20
            while not has_come(world, chunks):
                assert time.perf_counter() < until_s
                time.sleep(0.001)
            if whole:
                loading.wait(layer, timeout_s=20)
                assert world.holds(layer)
        assert loading.join(20)
    assert loading.error is None


def has_come(world: World, chunks: Chunks) -> bool:
    place = world.places[chunks.part, chunks.layer]
    slices = torch.zeros(chunks.num, place.slice_bytes, dtype=torch.uint8)
    place.gather(slices, chunks.first)
    return torch.equal(slices, world.landed(chunks.part, chunks.layer)[chunks.first : chunks.stop])


@pytest.mark.parametrize("seed", range(10))
def test_a_layer_of_which_a_later_section_is_damaged_is_not_there(loader: DeviceLoader, seed: int) -> None:
    world = World()
    rng = random.Random(seed)
    told = cut(world, rng)
    damaged = rng.randrange(len(told))
    failed = told[damaged][0]
    with loader.load(world.retrieval, world.places) as loading:
        for unit, chunks, whole in told[:damaged]:
            world.retrieval.land_chunks(unit, [chunks], whole=whole)
        world.retrieval.fail(IntegrityError("damaged"))
        for unit, (layer,) in enumerate(world.geometry.units):
            if unit < failed:
                loading.wait(layer, timeout_s=20)
                assert world.holds(layer)
            else:
                with pytest.raises(IntegrityError):
                    loading.wait(layer, timeout_s=20)
                assert not loading.is_queued(layer)
        assert loading.join(20)
    for _, chunks, _ in told[damaged:]:
        assert not has_come(world, chunks), "only what was verified is put anywhere"


@pytest.mark.parametrize("seed", range(10))
def test_spans_of_sections_come_to_their_places(loader: DeviceLoader, seed: int) -> None:
    world = World()
    table = BlockTable([4, 1, 2], block_tokens=4, chunk_tokens=4, num_chunks=3)
    places: dict[tuple[int, int], Place] = {
        (0, layer): paged_kv(world.kv[layer], chunk_tokens=4).at(table) for layer in range(2)
    }
    with loader.load(world.retrieval, places, spans={0: (1, 4)}) as loading:
        for unit, chunks, whole in cut(world, random.Random(seed)):
            world.retrieval.land_chunks(unit, [chunks], whole=whole)
        assert loading.join(20)
        for layer in range(3):
            loading.wait(layer)
    for layer in range(2):
        slices = torch.zeros(3, places[0, layer].slice_bytes, dtype=torch.uint8)
        places[0, layer].gather(slices, 0)
        assert torch.equal(slices, world.landed(0, layer)[1:4])
        assert not world.kv[layer][:, [block for block in range(CHUNKS) if block not in (4, 1, 2)]].any()
    assert not any(latent.any() for latent in world.latent)


@pytest.mark.parametrize("seed", range(10))
def test_what_is_in_place_is_moved_from_there(loader: DeviceLoader, seed: int) -> None:
    """In arrays of any size, beside what has landed."""
    world = World()
    rng = random.Random(seed)
    in_place = InPlace(world.geometry, world.memory.data)
    moved = []
    for part, layer in world.places:
        start = world.geometry.offset(part, layer)
        flat = world.memory[start : start + world.geometry.layer_bytes(part, layer)].reshape(CHUNKS, -1)
        first = 0
        while first < CHUNKS:
            stop = min(CHUNKS, first + rng.randint(1, 3))
            if rng.random() < 0.6:
                in_place.put(part, layer, first, flat[first:stop].copy())
                moved.append(flat[first:stop])
            first = stop
    expected = {(part, layer): world.landed(part, layer) for part, layer in world.places}
    for flat in moved:
        flat[:] = 0
    world.retrieval.read_in_place(in_place)
    with loader.load(world.retrieval, world.places) as loading:
        for unit, chunks, whole in cut(world, rng):
            world.retrieval.land_chunks(unit, [chunks], whole=whole)
        assert loading.join(20)
    for (part, layer), place in world.places.items():
        slices = torch.zeros(CHUNKS, place.slice_bytes, dtype=torch.uint8)
        place.gather(slices, 0)
        assert torch.equal(slices, expected[part, layer])
