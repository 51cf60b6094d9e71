"""Files of the tier that are mapped: verified once, registered, found without a look at the disk, let go of in time."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from objectcache.errors import ConfigError, IntegrityError
from objectcache.keys import KeyChain
from objectcache.tier import LocalTier
from objectcache.tier import files as tier_files
from objectcache.tier.mappings import Mappings
from tests.tier.world import (
    EXTENT,
    LAYERS,
    NAMESPACE,
    OLD,
    STEP,
    come,
    delivered,
    held,
    keys_of,
    open_tier,
    part_of,
    read,
)

pytestmark = pytest.mark.usefixtures("short_extents")


class Registered:
    """A registrar: what is registered, by address."""

    def __init__(self, most: int = 1 << 30) -> None:
        self.now: dict[int, int] = {}
        self.most = most

    def __call__(self, address: int, size_bytes: int) -> Callable[[], None]:
        if len(self.now) >= self.most:
            raise ConfigError("no more")
        assert address not in self.now
        self.now[address] = size_bytes
        return lambda: self.now.__delitem__(address)


def open_mapped(folder: Path, registered: Registered, limit_bytes: int = 1 << 30) -> LocalTier:
    tier = open_tier(folder, limit_bytes)
    tier.mappings.register(registered)
    return tier


def come_and_map(tier: LocalTier, keys: KeyChain) -> None:
    come(tier, keys)
    tier.map(NAMESPACE, [part_of(keys)])


def files(folder: Path) -> list[Path]:
    return [Path(root) / file for root, _, found in os.walk(folder / "extents") for file in found]


def test_what_is_mapped_is_not_read(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    registered = Registered()
    tier = open_mapped(tmp_path, registered)
    keys = keys_of(1, 10)
    for layers in (2, LAYERS):  # the first ones, then all
        come_and_map(tier, keys)
        assert sum(registered.now.values()) == tier.mappings.mapped_bytes == 10 * 4096 * layers
        part = part_of(keys)
        holding = tier.look_up(NAMESPACE, [part])
        memory, units, errors = read(holding, part, executor)
        assert holding.all_mapped
        assert (units, errors) == (list(range(layers)), [])
        end = delivered(part)[0].offset(0, layers - 1) + 10 * 4096
        assert memory[:end] == delivered(part)[1][:end]
    tier.close()
    assert registered.now == {}


@pytest.mark.parametrize("count", [1, 3, 4, 9, 10])
def test_beginnings_are_found_in_place(tmp_path: Path, executor: ThreadPoolExecutor, count: int) -> None:
    tier = open_mapped(tmp_path, Registered())
    come_and_map(tier, keys_of(1, 10))
    part = part_of(keys_of(1, 10)[:count])
    holding = tier.look_up(NAMESPACE, [part])
    assert holding.parts[0].held == ((2, count),)
    memory, units, errors = read(holding, part, executor)
    assert (units, errors, holding.all_mapped) == ([0, 1], [], True)
    end = delivered(part)[0].offset(0, 1) + count * 4096
    assert memory[:end] == delivered(part)[1][:end]
    tier.close()


def test_what_is_partly_mapped_is_read_beside_it(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    tier = open_mapped(tmp_path, Registered())
    come_and_map(tier, keys_of(1, 8))
    come(tier, keys_of(1, 16))  # longer: two more extents
    part = part_of(keys_of(1, 16))
    holding = tier.look_up(NAMESPACE, [part])
    memory, units, errors = read(holding, part, executor)
    assert (sorted(units), errors, holding.all_mapped) == (list(range(LAYERS)), [], False)
    geometry, whole = delivered(part)
    for layer, count in enumerate([16, 16] + [8] * (LAYERS - 2)):
        at = geometry.offset(0, layer)
        assert memory[at : at + count * 4096] == whole[at : at + count * 4096]
    tier.close()


def test_files_put_together_by_another_process_are_found_in_the_end(tmp_path: Path) -> None:
    """Which did not know of the parts that this one has mapped."""
    tier, other = open_mapped(tmp_path, Registered()), open_tier(tmp_path)
    keys = keys_of(1, 16)
    come_and_map(tier, keys[:12])
    part = part_of(keys)
    other.keep(NAMESPACE, [part], [((16, OLD),)], *delivered(part), None)
    assert held(tier, keys) == ((2, 12),), "what is mapped is taken first"
    assert len(files(tmp_path)) == 4
    come_and_map(tier, keys)
    found = tier.look_up(NAMESPACE, [part])
    assert found.parts[0].held[-1][1] == 16
    assert [extent.count for extent in found.parts[0].extents if extent.layers == (0, 1)] == [4, 4, 8]
    assert all(extent.file.mapped_layers for extent in found.parts[0].extents)
    found.close()
    assert len([file for file in files(tmp_path) if file.name.startswith("f")]) == 3
    tier.close()
    other.close()


def test_what_is_mapped_is_not_open_and_counts_as_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tier = open_mapped(tmp_path, Registered())
    keys = keys_of(1, 40)
    come(tier, keys)
    before = len(os.listdir("/proc/self/fd"))
    tier.map(NAMESPACE, [part_of(keys)])
    assert held(tier, keys) == ((2, 40),)
    assert len(os.listdir("/proc/self/fd")) == before
    for file in files(tmp_path):
        os.utime(file, (0, 0))
    assert held(tier, keys) == ((2, 40),)
    assert all(file.stat().st_mtime == 0 for file in files(tmp_path)), "it was noted when they were mapped"
    monkeypatch.setattr(tier_files, "TOUCH_INTERVAL_S", 0)  # a minute has passed
    assert held(tier, keys) == ((2, 40),)
    assert all(file.stat().st_mtime > 0 for file in files(tmp_path))
    tier.close()


def test_a_file_is_mapped_once(tmp_path: Path) -> None:
    """Also one that holds fewer chunks than are asked for."""
    registered = Registered()
    tier = open_mapped(tmp_path, registered)
    come_and_map(tier, keys_of(1, 6))
    for _ in range(3):
        tier.map(NAMESPACE, [part_of(keys_of(1, 8))])
    assert len(registered.now) == 2 * 2, "of two files, two layers"
    assert held(tier, keys_of(1, 8)) == ((2, 6),)
    tier.close()


def test_an_evicted_file_stays_while_it_is_used_and_no_longer(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    registered = Registered()
    tier = open_mapped(tmp_path, registered)
    part = part_of(keys_of(1, 8))
    come_and_map(tier, part.keys)
    holding = tier.look_up(NAMESPACE, [part])
    for file in files(tmp_path):
        file.unlink()
    tier.mappings.sweep()
    assert held(tier, part.keys) == (), "it is not found any more"
    assert tier.mappings.mapped_bytes == 0
    assert registered.now, "but who has found it goes on"
    memory, units, errors = read(holding, part, executor)
    assert (units, errors) == ([0, 1], [])
    assert memory[: 8 * 4096] == delivered(part)[1][: 8 * 4096]
    tier.mappings.sweep()
    assert registered.now == {}
    come_and_map(tier, part.keys)
    assert held(tier, part.keys) == ((2, 8),)
    tier.close()


def test_a_file_that_took_the_place_of_another_is_another(tmp_path: Path) -> None:
    registered = Registered()
    tier = open_mapped(tmp_path, registered)
    come_and_map(tier, keys_of(1, 4))
    (path,) = files(tmp_path)
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    tier.mappings.sweep()
    assert (registered.now, tier.mappings.mapped_bytes) == ({}, 0)
    tier.map(NAMESPACE, [part_of(keys_of(1, 4))])
    assert tier.mappings.mapped_bytes == 2 * EXTENT
    tier.close()


def test_damage_is_found_when_it_is_mapped(tmp_path: Path) -> None:
    registered = Registered()
    tier = open_mapped(tmp_path, registered)
    come(tier, keys_of(1, 4))
    (path,) = files(tmp_path)
    data = bytearray(path.read_bytes())
    data[4200] ^= 1
    path.write_bytes(data)
    tier.map(NAMESPACE, [part_of(keys_of(1, 4))])
    assert (registered.now, tier.mappings.mapped_bytes) == ({}, 0)
    assert held(tier, keys_of(1, 4)) == (), "and it is gone"
    tier.close()


def test_another_namespace_finds_nothing_in_place(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    tier = open_mapped(tmp_path, Registered())
    keys = keys_of(1, 4)
    come_and_map(tier, keys)
    part = part_of(keys)
    memory, units, errors = read(tier.look_up(bytes(32), [part]), part, executor)
    assert (units, [type(error) for error in errors]) == ([], [IntegrityError])
    assert not any(memory)
    tier.close()


def test_layers_are_mapped_in_bounded_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However small they are: each takes one of the mappings that a process may have."""
    registered = Registered()
    tier = open_mapped(tmp_path, registered)
    monkeypatch.setattr(tier.mappings, "_max_windows", 2 * LAYERS)
    for seed in range(6):
        come_and_map(tier, keys_of(seed, STEP))
        assert 0 < len(registered.now) <= 2 * LAYERS
    tier.close()
    assert registered.now == {}


def test_the_limit_holds_for_what_is_mapped(tmp_path: Path) -> None:
    registered = Registered()
    limit = 10 * EXTENT
    tier = open_mapped(tmp_path, registered, limit)
    for chain in range(1, 12):
        come_and_map(tier, keys_of(chain, 8))
        assert tier.mappings.mapped_bytes <= limit
        tier.mappings.sweep()
        assert sum(registered.now.values()) == tier.mappings.mapped_bytes > 0
    tier.close()
    small = Mappings(2 * EXTENT)
    small.register(registered)
    other = open_tier(tmp_path / "other")
    come(other, keys_of(1, 8))
    extents = other.look_up(NAMESPACE, [part_of(keys_of(1, 8))]).parts[0].extents
    for extent in extents:
        small.map(extent.file)
        extent.file.close()
    assert small.mapped_bytes == 2 * EXTENT, "the least recently used one went"
    assert small.find(*extents[0].file.beginning[:2], extents[0].keys, 0, STEP, rest=False, num_layers=None) is None
    small.close()
    assert registered.now == {}


def test_what_cannot_be_registered_is_read(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    registered = Registered(most=3)
    tier = open_mapped(tmp_path, registered)
    part = part_of(keys_of(1, 12))
    come_and_map(tier, part.keys)
    assert not tier.mappings.wanted, "nor tried again"
    holding = tier.look_up(NAMESPACE, [part])
    memory, units, errors = read(holding, part, executor)
    assert (sorted(units), errors) == ([0, 1], [])
    end = delivered(part)[0].offset(0, 2)
    assert memory[:end] == delivered(part)[1][:end]
    tier.close()
    assert registered.now == {}


def test_what_cannot_be_mapped_is_read(
    tmp_path: Path, executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "denied")

    tier = open_mapped(tmp_path, Registered())
    part = part_of(keys_of(1, 8))
    monkeypatch.setattr("objectcache.tier.files.FileWindow", refuse)
    come_and_map(tier, part.keys)
    assert not tier.mappings.wanted
    _, units, errors = read(tier.look_up(NAMESPACE, [part]), part, executor)
    assert (sorted(units), errors) == ([0, 1], [])
    tier.close()


def test_nothing_is_mapped_for_nobody(tmp_path: Path) -> None:
    tier = open_tier(tmp_path)
    come_and_map(tier, keys_of(1, 8))
    assert tier.mappings.mapped_bytes == 0
    tier.close()
