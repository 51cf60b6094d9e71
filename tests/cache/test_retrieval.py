"""Chunks as a retrieval tells of them: each once, in the order of units, and none of what failed."""

from __future__ import annotations

import random
import threading
import time

import numpy as np
import pytest

from objectcache.cache.in_place import InPlace
from objectcache.cache.retrieval import Retrieval
from objectcache.errors import DeliveryCancelledError, DeliveryTimeoutError, IntegrityError
from objectcache.layout import Chunks, DeliveryGeometry, PartShape

SHAPES = (PartShape((0, 1, 3), (16, 16, 16), 12), PartShape((1, 2), (8, 8), 5))


def open_retrieval(layers_per_unit: int = 1, deadline_s: float = 30.0) -> Retrieval:
    geometry = DeliveryGeometry(SHAPES, layers_per_unit)
    memory = np.random.default_rng(3).integers(0, 256, geometry.total_bytes, dtype=np.uint8)
    return Retrieval(geometry, memory.data, deadline_s=time.perf_counter() + deadline_s)


def runs(geometry: DeliveryGeometry, rng: random.Random) -> list[tuple[int, Chunks, bool]]:
    """(unit, chunks, whether they are the last of it), in any order of units and of what is in them."""
    found = []
    for unit, layers in enumerate(geometry.units):
        mine = []
        for layer in layers:
            for part in geometry.parts_of(layer):
                at = 0
                while at < geometry.parts[part].num_chunks:
                    stop = min(geometry.parts[part].num_chunks, at + rng.randint(1, 5))
                    mine.append(Chunks(part, layer, at, stop))
                    at = stop
        rng.shuffle(mine)
        found.append([(unit, chunks, chunks is mine[-1]) for chunks in mine])
    mixed = []
    while any(found):
        mixed.append(rng.choice([unit for unit in found if unit]).pop(0))
    return mixed


@pytest.mark.parametrize("seed", range(30))
def test_each_is_told_once_in_the_order_of_units(seed: int) -> None:
    rng = random.Random(seed)
    retrieval = open_retrieval()
    told: list[Chunks] = []

    def follow() -> None:
        for chunks in retrieval.follow():
            told.append(chunks)

    thread = threading.Thread(target=follow)
    thread.start()
    for unit, chunks, whole in runs(retrieval.geometry, rng):
        retrieval.land_chunks(unit, [chunks], whole=whole)
        if rng.random() < 0.2:
            time.sleep(0.001)
    thread.join(20)
    assert not thread.is_alive()
    assert retrieval.complete
    assert [chunks.layer for chunks in told] == sorted(chunks.layer for chunks in told)
    numbers = [(each.part, each.layer, chunk) for each in told for chunk in range(each.first, each.stop)]
    assert len(numbers) == len(set(numbers)) == 12 * 3 + 5 * 2
    assert list(retrieval.follow()) == told, "whoever comes later hears the same"


def test_chunks_are_told_before_their_unit_has_landed() -> None:
    retrieval = open_retrieval()
    following = retrieval.follow()
    retrieval.land_chunks(0, [Chunks(0, 0, 4, 8)], whole=False)
    assert next(following) == (0, 0, 4, 8)
    assert retrieval.landed_s(0) is None
    (block,) = retrieval.blocks(0, 0, 4, 8)
    assert block.tobytes() == bytes(retrieval.memory[64:128])
    with pytest.raises(DeliveryTimeoutError):
        retrieval.wait(0, timeout_s=0.01)


def test_what_is_of_a_later_unit_waits_for_those_before() -> None:
    retrieval = open_retrieval(deadline_s=0.05)
    retrieval.land_chunks(1, [Chunks(0, 1, 0, 12)], whole=False)
    following = retrieval.follow()
    with pytest.raises(DeliveryTimeoutError):
        next(following)
    retrieval.land(0)
    assert list(zip(range(2), retrieval.follow(), strict=False)) == [(0, (0, 0, 0, 12)), (1, (0, 1, 0, 12))]


def test_units_of_several_layers_are_not_cut() -> None:
    retrieval = open_retrieval()
    retrieval.land_chunks(0, [Chunks(0, 0, 0, 4)], whole=False)
    retrieval.regroup(2)
    retrieval.land_chunks(0, [Chunks(0, 0, 4, 12)], whole=True)
    retrieval.land(1)
    assert list(zip(range(3), retrieval.follow(), strict=False)) == [
        (0, (0, 0, 0, 12)),
        (1, (0, 1, 0, 12)),
        (2, (1, 1, 0, 5)),
    ]


def test_after_a_failure_only_what_came_before_is_told() -> None:
    retrieval = open_retrieval()
    retrieval.land(0)
    retrieval.land_chunks(1, [Chunks(0, 1, 0, 4)], whole=False)
    retrieval.fail(IntegrityError("damaged"))
    following = retrieval.follow()
    assert [next(following), next(following)] == [(0, 0, 0, 12), (0, 1, 0, 4)]
    with pytest.raises(IntegrityError):
        next(following)
    retrieval.close()
    with pytest.raises(DeliveryCancelledError):
        next(retrieval.follow())


@pytest.mark.parametrize("seed", range(10))
def test_chunks_in_place_are_read_there_and_brought_for_a_view(seed: int) -> None:
    rng = np.random.default_rng(seed)
    retrieval = open_retrieval()
    geometry, memory = retrieval.geometry, retrieval.memory
    in_place = InPlace(geometry, memory)
    expected = np.frombuffer(memory, np.uint8)[: 12 * 16].reshape(12, 16).copy()
    at = 0
    while at < 12:
        stop = min(12, at + int(rng.integers(1, 5)))
        if rng.random() < 0.6:
            slices = rng.integers(0, 256, (stop - at, 16), dtype=np.uint8)
            in_place.put(0, 0, at, slices)
            expected[at:stop] = slices
        at = stop
    retrieval.read_in_place(in_place)
    retrieval.land(0)
    retrieval.land(1)
    first = int(rng.integers(0, 11))
    stop = int(rng.integers(first + 1, 13))
    blocks = retrieval.blocks(0, 0, first, stop)
    assert np.concatenate(blocks).tobytes() == expected[first:stop].tobytes()
    in_place.bring_chunks(0, 0, first, stop)
    assert bytes(memory[first * 16 : stop * 16]) == expected[first:stop].tobytes()
    assert retrieval.view(0).tobytes() == expected.tobytes()
    assert len(retrieval.blocks(1, 0, 0, 12)) == 1, "what is not in place lies in one stretch"
