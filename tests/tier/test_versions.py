"""Chunks are of one version in all their layers, and what is of another is kept anew."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from objectcache.descriptor import Versions
from objectcache.tier.names import TierName, cut_versions
from tests.tier.world import (
    LAYERS,
    NAMESPACE,
    NEW,
    OLD,
    SLICE_BYTES,
    come,
    delivered,
    files,
    held,
    keys_of,
    open_tier,
    part_of,
    read,
)

pytestmark = pytest.mark.usefixtures("short_extents")


def test_a_chunk_is_of_one_version(tmp_path: Path) -> None:
    """First layers of one version and the rest of another are not put together."""
    tier = open_tier(tmp_path)
    keys = keys_of(1, 8)
    come(tier, keys, ((8, OLD),))
    come(tier, keys, ((4, OLD), (4, NEW)))  # the first layers are there already, of the old one; the rest is partly new
    holding = tier.look_up(NAMESPACE, [part_of(keys)])
    holding.close()
    assert holding.parts[0].held == ((LAYERS, 4), (2, 8))
    assert holding.parts[0].versions == ((8, OLD),)
    tier.close()


def test_a_rest_that_differs_within_a_file_is_kept_anew(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    """Until then, what it has of the versions of the first layers is used."""
    tier = open_tier(tmp_path)
    keys = keys_of(1, 64)
    part = part_of(keys)
    versions = ((40, OLD), (24, NEW))
    come(tier, keys)
    come(tier, keys)
    assert held(tier, keys) == ((LAYERS, 64),)
    (last,) = [path for path in tmp_path.rglob("f.*") if (name := TierName.decode(path.name)) and name.num_chunks == 32]
    last.unlink()
    assert come(tier, keys, versions) == ((LAYERS, 32),), "its first layers come again, partly of another version"

    found = tier.look_up(NAMESPACE, [part])
    assert found.parts[0].held == ((LAYERS, 40), (2, 64))
    assert found.parts[0].versions == versions
    geometry, memory = delivered(part)
    tier.keep(NAMESPACE, [part], [versions], geometry, memory, found)
    read_memory, units, errors = read(found, part, executor)
    assert (sorted(units), errors) == (list(range(LAYERS)), [])
    for layer, chunks in enumerate([64, 64, 40, 40, 40, 40]):
        at = geometry.offset(0, layer)
        assert read_memory[at : at + chunks * SLICE_BYTES] == memory[at : at + chunks * SLICE_BYTES]

    found = tier.look_up(NAMESPACE, [part])
    assert found.parts[0].held == ((LAYERS, 64),), "there is one that goes with them now"
    assert found.parts[0].versions == versions
    read_memory, units, errors = read(found, part, executor)
    assert (sorted(units), errors) == (list(range(LAYERS)), [])
    assert read_memory == memory
    assert [chunks for kind, chunks in files(tmp_path) if kind == "r"] == [4, 4, 8, 16, 32], "instead of the other"
    tier.close()


@pytest.mark.parametrize(
    ("again", "now_held", "left"),
    [
        (((20, OLD),), ((LAYERS, 20),), [4, 4, 8, 16, 32]),
        (((18, OLD), (2, NEW)), ((LAYERS, 18), (2, 20)), [4, 4, 8, 32]),
    ],
    ids=["alike", "that differs"],
)
def test_a_rest_stays_that_first_layers_do_not_contradict(
    tmp_path: Path, again: Versions, now_held: tuple[tuple[int, int], ...], left: list[int]
) -> None:
    """First layers that end within a file of the rest: that goes where they differ, what lies behind does not."""
    tier = open_tier(tmp_path)
    keys = keys_of(1, 64)
    come(tier, keys)
    come(tier, keys)
    for path in tmp_path.rglob("f.*"):
        if (name := TierName.decode(path.name)) and name.num_chunks >= 16:
            path.unlink()
    come(tier, keys[:20], again)
    assert held(tier, keys) == now_held
    assert [chunks for kind, chunks in files(tmp_path) if kind == "r"] == left
    tier.close()


@pytest.mark.parametrize(
    ("theirs", "mine", "left"),
    [(((12, OLD), (4, NEW)), ((10, OLD), (6, NEW)), True), (((16, OLD),), ((16, OLD),), False)],
    ids=["maybe of others", "of the same"],
)
def test_a_file_of_other_versions_stands_for_no_shorter_one(
    tmp_path: Path, theirs: Versions, mine: Versions, left: bool
) -> None:
    """Files of several versions are named alike: one that another process has kept meanwhile may be of others."""
    tier, other = open_tier(tmp_path), open_tier(tmp_path)
    part = part_of(keys_of(1, 16))
    come(tier, part.keys[:10])
    geometry, memory = delivered(part)
    with closing(tier.look_up(NAMESPACE, [part])) as found:
        assert found.parts[0].held == ((2, 10),)
        other.keep(NAMESPACE, [part], [theirs], geometry, memory, None)
        tier.keep(NAMESPACE, [part], [mine], geometry, memory, found)
    assert [file for file in files(tmp_path) if file[0] == "f"] == [*[("f", 2)] * left, ("f", 4), ("f", 4), ("f", 8)]
    other.close()
    tier.close()


def test_several_versions_within_an_extent(tmp_path: Path) -> None:
    tier = open_tier(tmp_path)
    keys = keys_of(1, 8)
    versions = ((3, OLD), (5, NEW))
    come(tier, keys, versions)
    holding = tier.look_up(NAMESPACE, [part_of(keys[:7])])
    holding.close()
    assert holding.parts[0].versions == ((3, OLD), (4, NEW))
    tier.close()


@pytest.mark.parametrize(
    ("first", "stop", "cut"),
    [(0, 9, ((5, OLD), (4, NEW))), (2, 3, ((1, OLD),)), (4, 6, ((1, OLD), (1, NEW))), (9, 20, ()), (3, 3, ())],
)
def test_versions_are_cut(first: int, stop: int, cut: Sequence[tuple[int, bytes]]) -> None:
    assert cut_versions(((2, OLD), (3, OLD), (4, NEW)), first, stop) == tuple(cut)
