"""Whatever order streams run in, as far as events allow: what the compute stream and the host see is right."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from objectcache.device import BlockLayer, BlockTable, DeviceLoader, DeviceSaver, block_table, paged_kv
from objectcache.errors import DeliveryError
from tests.device.caches import Shape, make, random_slices
from tests.device.late import LateStream, LateWorld
from tests.device.world import World

LEAST_ROW_BYTES = (1, 150, 4096)
"""With which all layers go straight to their places, those of latents (whose rows have 160 bytes), or none."""


@pytest.mark.parametrize("seed", range(20))
def test_the_compute_stream_finds_each_layer_behind_its_wait(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("objectcache.device.places.LEAST_ROW_BYTES", LEAST_ROW_BYTES[seed % 3])
    late = LateWorld(seed)
    late.install(monkeypatch)
    loader = DeviceLoader("cpu", staged=True, staging_bytes=1000, num_staging=1 + seed % 3, strided=True)
    worlds = [World(wipe=True), World(layers_per_unit=2, wipe=True)]
    expected = [[world.landed(part, layer) for part, layer in world.places] for world in worlds]
    used_before = [world.kv[0].clone() for world in worlds]
    found: list[list[torch.Tensor]] = []
    loadings = []
    for world, seen in zip(worlds, used_before, strict=True):
        with late.compute():
            seen.copy_(world.kv[0])  # what an earlier step still reads
        before = seen.clone()
        loadings.append((loader.load(world.retrieval, world.places), before))
    for world, (loading, _) in zip(worlds, loadings, strict=True):
        for unit in range(len(world.geometry.units)):
            world.retrieval.land(unit)
        snapshots = []
        for part, layer in world.places:
            loading.wait(layer, timeout_s=20)
            place = world.places[part, layer]
            snapshots.append(torch.zeros(place.num_chunks, place.slice_bytes, dtype=torch.uint8))
            with late.compute():
                place.gather(snapshots[-1], 0)
        found.append(snapshots)
    assert all(loading.join(20) for loading, _ in loadings)
    late.finish()
    for snapshots, wanted in zip(found, expected, strict=True):
        assert all(map(torch.equal, snapshots, wanted))
    for seen, (_, before) in zip(used_before, loadings, strict=True):
        assert torch.equal(seen, before)


@pytest.mark.parametrize("forbids", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_closing_early_leaves_nothing_behind(seed: int, forbids: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("objectcache.device.places.LEAST_ROW_BYTES", LEAST_ROW_BYTES[seed % 3])
    late = LateWorld(seed)
    late.install(monkeypatch)
    loader = DeviceLoader("cpu", staged=True, staging_bytes=1000, num_staging=2, strided=True)
    world = World(wipe=True)
    first = world.landed(0, 0)
    loading = loader.load(world.retrieval, world.places)
    for layer in range(2):
        world.retrieval.land(layer)
    loading.wait(0, timeout_s=20)
    while not loading.is_queued(1):
        time.sleep(0.001)
    got = torch.zeros(first.shape, dtype=torch.uint8)
    caches = [world.latent[0], *world.kv]
    others = [torch.full_like(cache, 3) for cache in caches]
    with late.lock:  # nothing runs in between but what `close` waits for
        loading.forbid() if forbids else loading.close()
        with late.compute():
            world.places[0, 0].gather(got, 0)
            for cache, other in zip(caches, others, strict=True):
                cache.copy_(other)  # the blocks are somebody else's now
    late.finish()
    if forbids:
        assert world.closed == [], "who has been forbidden to write may still be reading"
        loading.close()
    assert loading.join(20)
    assert torch.equal(got, first)
    assert all(map(torch.equal, caches, others))


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_a_layer_is_saved_as_it_was_computed(seed: int, pinned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    late = LateWorld(seed)
    late.install(monkeypatch)
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda self: pinned)
    saver = DeviceSaver("cpu", staged=True, staging_bytes=1000, num_staging=1 + seed % 3)
    shape = Shape("kv", torch.bfloat16, 2, 8, 4, 8, 12)
    sources: list[Any] = []
    for layer in range(3):
        cache = make(shape, seed=layer)
        slices = random_slices(shape, seed=layer)
        with late.compute():
            cache.place.scatter(torch.from_numpy(slices.copy()), 0)
        sources.append((cache, slices, saver.source(cache.place)))
    for cache, slices, source in reversed(sources):
        memory = bytearray(source.num_bytes)
        source.copy_into(memoryview(memory))
        with late.compute():
            cache.tensors[0].copy_(torch.zeros_like(cache.tensors[0]))
        late.finish()
        assert memory == slices.tobytes()


@pytest.mark.parametrize("seed", range(20))
def test_whole_blocks_are_saved_as_they_were_at_a_moment(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """That another thread asked for: what is queued in its own stream says nothing."""
    late = LateWorld(seed)
    late.install(monkeypatch)
    saver = DeviceSaver("cpu", staged=True, staging_bytes=1000, num_staging=1 + seed % 3)
    cache = torch.zeros(2, 8, 4, 2, 8)
    blocks = BlockLayer(cache, 8)
    blocks._rows = None  # as on a device
    with late.compute():
        cache.copy_(torch.full_like(cache, 5))
    moment = saver.moment()
    source = saver.source(blocks.at(block_table([6, 1, 2])), after=moment)
    memory = bytearray(source.num_bytes)
    source.copy_into(memoryview(memory))
    assert bytes(memory) == torch.full((3, 2, 4, 2, 8), 5.0).numpy().tobytes()
    late.finish()


@pytest.mark.parametrize("straight_first", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_whoever_comes_later_has_the_last_word(
    seed: int, straight_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever way each goes: a load that was given up may still be on its way to blocks that have another owner."""
    late = LateWorld(seed)
    late.install(monkeypatch)
    loader = DeviceLoader("cpu", staged=True, strided=True)
    cache = make(Shape("kv", torch.bfloat16, 2, 8, 4, 4, 6))
    earlier, later = (random_slices(cache.shape, seed=number) for number in (1, 2))
    for slices, straight in ((earlier, straight_first), (later, not straight_first)):
        monkeypatch.setattr("objectcache.device.places.LEAST_ROW_BYTES", 1 if straight else 4096)
        layer = paged_kv(cache.tensors[0], chunk_tokens=4)
        place = layer.at(BlockTable(range(6), block_tokens=4, chunk_tokens=4, num_chunks=6))
        _, placed = loader.queue.move([slices], place, 0, None)
    late.host_wait(placed)
    found = torch.zeros(later.shape, dtype=torch.uint8)
    place.gather(found, 0)
    assert torch.equal(found, torch.from_numpy(later))
    late.finish()
    place.gather(found, 0)
    assert torch.equal(found, torch.from_numpy(later))


@pytest.mark.parametrize("seed", range(5))
def test_what_was_queued_before_a_copy_is_refused_is_waited_for(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    late = LateWorld(seed)
    late.install(monkeypatch)
    monkeypatch.setattr("objectcache.device.places.LEAST_ROW_BYTES", 1)
    loader = DeviceLoader("cpu", staged=True, strided=True)
    copy, calls = LateStream.copy, []

    def refusing(stream: LateStream, *how: Any) -> None:
        calls.append(how)
        if len(calls) == 2:
            raise DeliveryError("refused")
        copy(stream, *how)

    monkeypatch.setattr(LateStream, "copy", refusing)
    slices = random_slices(Shape("kv", torch.bfloat16, 2, 8, 4, 4, 6))
    with pytest.raises(DeliveryError, match="refused"):
        loader.queue.move([slices[:3], slices[3:]], make(Shape("kv", torch.bfloat16, 2, 8, 4, 4, 6)).place, 0, None)
    assert len(calls) == 2
    assert not any(stream.queue for stream in late.streams), "nobody else knows of it"


def test_copies_wait_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA would keep whoever queues more, with the interpreter's lock."""
    late = LateWorld(0)
    late.install(monkeypatch)
    monkeypatch.setattr("objectcache.device.places.LEAST_ROW_BYTES", 1)
    monkeypatch.setattr("objectcache.device.queueing._MOST_QUEUED", 20)
    loader = DeviceLoader("cpu", staged=True, strided=True)
    shape = Shape("kv", torch.bfloat16, 2, 8, 4, 4, 6)
    place, slices, most = make(shape).place, random_slices(shape), 0
    for _ in range(40):
        loader.queue.move([slices], place, 0, None)
        most = max(most, *(len(stream.queue) for stream in late.streams))
    assert 20 < most < 60
