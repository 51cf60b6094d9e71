"""Placements of a delivery that several workers send into a client's memory."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from objectcache.stores import FileStore
from objectcache.transports.dealing import Dealing, Portion
from objectcache.transports.shared_memory.placements import placed_bytes, placements_of
from objectcache.workers.open_objects import OpenObjects
from tests.transports.sending import store_prefix

MIB = 1 << 20
LAYERS, LAYER_BYTES = 3, 8 * MIB  # one placement, where one worker sends it all


@pytest.mark.parametrize("carriers", [2, 4])
def test_each_layer_is_placed_by_all_of_them_and_nothing_twice(tmp_path: Path, carriers: int) -> None:
    store = FileStore(tmp_path)
    prefix = store_prefix(store, 1, segments=1, chunks=64, layers=LAYERS, slice_bytes=MIB // 8)
    held = OpenObjects().hold(store, prefix.plan.segment_bytes)
    placed: list[Counter[int]] = []
    chunks: Counter[tuple[int, int]] = Counter()
    for carrier in range(carriers):
        portion = Portion(carriers, carriers, carrier)
        own: Counter[int] = Counter()
        most = placed_bytes(prefix.plan, portion)
        for (placement,) in placements_of(prefix.plan, held.readers, 1, 0, None, Dealing(portion), most):
            frame = placement.frame
            own[frame.layer] += frame.data_bytes
            chunks.update((frame.layer, frame.first_chunk + at) for at in range(frame.num_chunks))
        placed.append(own)
    held.release()
    assert chunks == Counter((layer, chunk) for layer in range(LAYERS) for chunk in range(64))
    assert [dict(own) for own in placed] == [dict.fromkeys(range(LAYERS), LAYER_BYTES // carriers)] * carriers


def test_what_is_waited_for_is_cut_finer_than_what_follows(tmp_path: Path) -> None:
    """With eight streams each has its part of the first layer; of the others each placement is worth its order."""
    store = FileStore(tmp_path)
    prefix = store_prefix(store, 1, segments=1, chunks=64, layers=LAYERS, slice_bytes=MIB // 8)
    held = OpenObjects().hold(store, prefix.plan.segment_bytes)
    sizes: list[Counter[tuple[int, int]]] = []
    for carrier in range(2):
        portion = Portion(8, 2, carrier)
        most = placed_bytes(prefix.plan, portion)
        made = placements_of(prefix.plan, held.readers, 1, 0, None, Dealing(portion), most)
        sizes.append(Counter((placement.frame.layer, placement.data_bytes) for (placement,) in made))
    held.release()
    assert sizes == [{(0, MIB): 4, (1, 4 * MIB): 1, (2, 4 * MIB): 1}] * 2


@pytest.mark.parametrize(("streams", "carriers"), [(3, 2), (5, 4), (8, 4)])
def test_nobody_is_left_out_where_streams_do_not_divide(tmp_path: Path, streams: int, carriers: int) -> None:
    store = FileStore(tmp_path)
    prefix = store_prefix(store, 1, segments=1, chunks=64, layers=8, slice_bytes=MIB // 8)
    held = OpenObjects().hold(store, prefix.plan.segment_bytes)
    for carrier in range(carriers):
        portion = Portion(streams, carriers, carrier)
        most = placed_bytes(prefix.plan, portion)
        made = placements_of(prefix.plan, held.readers, 1, 0, None, Dealing(portion), most)
        assert {placement.frame.layer for (placement,) in made} == set(range(8))
    held.release()


def test_one_carrier_places_as_much_at_once_as_may_be(tmp_path: Path) -> None:
    prefix = store_prefix(FileStore(tmp_path), 1, segments=1, chunks=64, layers=LAYERS, slice_bytes=MIB // 8)
    assert placed_bytes(prefix.plan, Portion(12)) == (8 * MIB, 8 * MIB)
