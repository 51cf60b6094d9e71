"""The tier by itself: what is kept, what is found again, what goes, and what is never believed."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from objectcache.errors import ConfigError, IntegrityError
from objectcache.keys import KeyChain
from objectcache.layout import DeliveryGeometry
from objectcache.tier import LocalTier, TierPart, cutting
from objectcache.tier.cutting import cut
from objectcache.tier.names import TierName, decode_versions, encode_versions
from tests.tier.world import (
    EXTENT,
    LAYERS,
    NAMESPACE,
    NEW,
    OLD,
    SLICE_BYTES,
    STEP,
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


def test_first_layers_first_then_the_rest(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    tier = open_tier(tmp_path)
    keys = keys_of(1, 10)
    assert come(tier, keys) == ()
    assert come(tier, keys) == ((2, 10),), "the first layers are there"
    part = part_of(keys)
    holding = tier.look_up(NAMESPACE, [part])
    assert holding.parts[0].held == ((LAYERS, 10),), "and then the rest"
    assert holding.parts[0].versions == ((10, OLD),)
    memory, units, errors = read(holding, part, executor)
    assert (sorted(units), errors) == (list(range(LAYERS)), [])
    assert memory == delivered(part)[1]
    tier.close()


def test_what_is_longer_or_shorter_is_found(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    """Steps have 4 chunks: 10 chunks are 4, 4 and 2, and 23 are 4, 4, 8, 4 and 3."""
    tier = open_tier(tmp_path)
    keys = keys_of(1, 23)
    come(tier, keys[:10])
    assert held(tier, keys) == ((2, 10),)
    for count in (1, 3, 4, 9):
        part = part_of(keys[:count])
        holding = tier.look_up(NAMESPACE, [part])
        assert holding.parts[0].held == ((2, count),)
        memory, units, errors = read(holding, part, executor)
        assert (sorted(units), errors) == ([0, 1], [])
        whole = delivered(part)[1]
        end = DeliveryGeometry((part.shape,), 1).offset(0, 2)
        assert memory[:end] == whole[:end]
    come(tier, keys)
    assert held(tier, keys) == ((LAYERS, 16), (2, 23)), "the rest of what had been there: an extent is the unit"
    assert files(tmp_path) == [("f", 3), ("f", 4), ("f", 4), ("f", 4), ("f", 8), ("r", 4), ("r", 4), ("r", 8)]
    tier.close()


def test_a_branch_is_another_prefix(tmp_path: Path) -> None:
    tier = open_tier(tmp_path)
    stem = keys_of(1, 6)
    branch = KeyChain(stem[:5].data + keys_of(2, 5).data)
    come(tier, stem)
    assert held(tier, branch) == ((2, 5),)
    come(tier, branch)
    assert held(tier, branch) == ((LAYERS, 8), (2, 10))
    assert held(tier, stem)[-1] == (2, 6), "both are there"
    tier.close()


def test_a_prefix_that_grows_is_a_few_files(tmp_path: Path) -> None:
    """Turn by turn, by less than a step: files of several steps take the place of those of one."""
    tier = open_tier(tmp_path)
    keys = keys_of(1, 102)
    for count in range(3, 103, 3):
        assert [chunks for _, chunks in come(tier, keys[:count])][-1:] == [count - 3][: count - 3]
        first = [chunks for kind, chunks in files(tmp_path) if kind == "f"]
        assert first == sorted(stop - at for at, stop in cut(count, STEP, 8 * STEP))
    assert first == [2, 4, 4, 4, 8, 16, 32, 32]
    tier.close()


@pytest.mark.usefixtures("short_reads")
@pytest.mark.parametrize("count", [5, 17, 36, 39, 40, 60, 64])
def test_less_is_asked_for_than_is_in_a_file(tmp_path: Path, executor: ThreadPoolExecutor, count: int) -> None:
    tier = open_tier(tmp_path)
    come(tier, keys_of(1, 64))
    assert files(tmp_path) == [("f", 4), ("f", 4), ("f", 8), ("f", 16), ("f", 32)]
    part = part_of(keys_of(1, 64)[:count])
    holding = tier.look_up(NAMESPACE, [part])
    assert holding.parts[0].held == ((2, count),)
    memory, units, errors = read(holding, part, executor)
    assert (sorted(units), errors) == ([0, 1], [])
    end = DeliveryGeometry((part.shape,), 1).offset(0, 1) + count * SLICE_BYTES
    assert memory[:end] == delivered(part)[1][:end]
    tier.close()


@pytest.mark.usefixtures("short_reads")
@pytest.mark.parametrize("shared", range(32, 65))
def test_prompts_that_part_within_a_file(tmp_path: Path, executor: ThreadPoolExecutor, shared: int) -> None:
    """What they share comes from the longer one's file, what they do not from a file that begins at the step before."""
    tier = open_tier(tmp_path)
    stem = keys_of(1, 64)
    come(tier, stem)
    branch = KeyChain(stem[:shared].data + keys_of(2, 30).data)[:60]
    part = part_of(branch)
    assert come(tier, branch) == ((2, min(shared, 60)),)
    holding = tier.look_up(NAMESPACE, [part])
    assert holding.parts[0].held[-1][1] == 60
    memory, _, errors = read(holding, part, executor)
    assert errors == []
    end = DeliveryGeometry((part.shape,), 1).offset(0, 1) + 60 * SLICE_BYTES
    assert memory[:end] == delivered(part)[1][:end]
    assert held(tier, stem)[-1][1] == 64, "both are there"
    tier.close()


def test_what_parts_within_a_file_is_of_the_versions_of_both(tmp_path: Path) -> None:
    """The longer one's file counts up to where the next begins, not as far as its chunks are shared."""
    tier = open_tier(tmp_path)
    stem = keys_of(1, 64)
    come(tier, stem, ((64, OLD),))
    branch = KeyChain(stem[:50].data + keys_of(2, 10).data)
    come(tier, branch, ((60, NEW),))
    with closing(tier.look_up(NAMESPACE, [part_of(branch)])) as found:
        assert found.parts[0].held[-1] == (2, 60)
        assert found.parts[0].versions == ((48, OLD), (12, NEW))
    tier.close()


def test_a_tier_that_was_cut_otherwise_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an earlier version, or one with a smaller limit: all of it is found, and becomes fewer files."""
    keys = keys_of(1, 102)
    tier = open_tier(tmp_path)
    with monkeypatch.context() as earlier:
        earlier.setattr(cutting, "MOST_STEPS", 1)
        come(tier, keys)
    assert len(files(tmp_path)) == 26
    assert held(tier, keys) == ((2, 102),)
    assert come(tier, keys) == ((2, 102),)
    assert [file for file in files(tmp_path) if file[0] == "f"] == [
        ("f", chunks) for chunks in (2, 4, 4, 4, 8, 16, 32, 32)
    ]
    with monkeypatch.context() as earlier:  # which finds nothing behind the first longer one, or all of it: no harm
        earlier.setattr(cutting, "MOST_STEPS", 1)
        assert held(tier, keys) == ((LAYERS, 102),)
        assert come(tier, keys) == ((LAYERS, 102),)
    assert held(tier, keys) == ((LAYERS, 102),)
    tier.close()


def test_a_small_tier_has_short_files(tmp_path: Path) -> None:
    tier = open_tier(tmp_path, limit_bytes=cutting.LIMIT_SHARE * 2 * 2 * EXTENT)
    come(tier, keys_of(1, 64))
    assert files(tmp_path) == [("f", 4), ("f", 4), *[("f", 8)] * 7]
    assert held(tier, keys_of(1, 64)) == ((2, 64),)
    tier.close()


def test_windows_stay_in_steps(tmp_path: Path) -> None:
    """They begin anywhere: a file of several steps is of no use to one that begins within it."""
    tier = open_tier(tmp_path)
    keys = keys_of(1, 100)
    for first, windowed in ((0, True), (8, True), (8, False)):
        part = replace(part_of(keys[first:], first=first), windowed=windowed)
        geometry, memory = delivered(part)
        tier.keep(NAMESPACE, [part], [((len(part.keys), OLD),)], geometry, memory, None)
        assert files(tmp_path) == [("f", 4)] * 25
    for first in range(4, 100, 4):
        found = tier.look_up(NAMESPACE, [replace(part_of(keys[first:], first=first), windowed=True)])
        assert found.parts[0].held == ((2, 100 - first),)
        found.close()
    tier.close()


def test_chunks_of_too_many_versions_for_one_file_are_in_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting, "MOST_STEPS", 16)
    tier = open_tier(tmp_path)
    keys = keys_of(1, 128)
    versions = ((64, OLD), *((1, bytes([index]) * 8) for index in range(64)))
    come(tier, keys, versions)
    assert files(tmp_path) == [("f", chunks) for chunks in (4, 4, 8, 16, 32, 32, 32)]
    with closing(tier.look_up(NAMESPACE, [part_of(keys)])) as found:
        assert found.parts[0].held == ((2, 128),)
        assert found.parts[0].versions == versions
    come(tier, keys_of(2, 128))
    assert ("f", 64) in files(tmp_path)
    tier.close()


def test_only_what_is_used_counts_as_used(tmp_path: Path) -> None:
    """Prompts with a common beginning: a new one looks into a few of them, and touches the one that it takes."""
    tier = open_tier(tmp_path)
    stem = keys_of(1, 2)
    for chain in range(2, 30):
        come(tier, KeyChain(stem.data + keys_of(chain, 2).data))
    files = [Path(root) / file for root, _, found in os.walk(tmp_path / "extents") for file in found]
    assert len(files) > 28
    for file in files:
        os.utime(file, (0, 0))
    assert held(tier, KeyChain(stem.data + keys_of(99, 2).data))[-1][1] == 2
    assert sum(file.stat().st_mtime > 0 for file in files) <= 2, "one of first layers, one of the rest"
    tier.close()


def test_another_namespace_part_or_window_has_nothing(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    tier = open_tier(tmp_path)
    keys = keys_of(1, 8)
    come(tier, keys)
    assert held(tier, keys_of(2, 8)) == ()
    other = TierPart(0, 1, 0, 16, keys, part_of(keys).shape)
    assert not tier.look_up(NAMESPACE, [other])
    assert not tier.look_up(NAMESPACE, [part_of(keys[1:], first=1)]), "a window that begins within an extent"
    # Keys name their namespace: the same ones in another namespace are a mistake somewhere, and no hit.
    part = part_of(keys)
    holding = tier.look_up(bytes(32), [part])
    assert [type(error) for error in read(holding, part, executor)[2]] == [IntegrityError]
    tier.close()


@pytest.mark.parametrize("where", [5, 4200, -5], ids=["header", "slices", "footer"])
def test_damage_is_never_believed(tmp_path: Path, executor: ThreadPoolExecutor, where: int) -> None:
    tier = open_tier(tmp_path)
    keys = keys_of(1, 4)
    come(tier, keys)
    (path,) = [Path(root) / file for root, _, files in os.walk(tmp_path / "extents") for file in files]
    data = bytearray(path.read_bytes())
    data[where] ^= 1
    path.write_bytes(data)
    part = part_of(keys)
    _, units, errors = read(tier.look_up(NAMESPACE, [part]), part, executor)
    assert [type(error) for error in errors] == [IntegrityError]
    assert 0 not in units or where == 4200
    assert held(tier, keys) == (), "and it is gone"
    tier.close()


def test_a_file_that_is_cut_short_is_not_there(tmp_path: Path) -> None:
    tier = open_tier(tmp_path)
    come(tier, keys_of(1, 4))
    (path,) = [Path(root) / file for root, _, files in os.walk(tmp_path / "extents") for file in files]
    os.truncate(path, 100)
    assert held(tier, keys_of(1, 4)) == ()
    tier.close()


def test_first_layers_outlive_the_rest(tmp_path: Path) -> None:
    """The rest of one prefix goes for the first layers of another, and never the other way round."""
    one = 2 * EXTENT + 16384  # first layers of 4 chunks, with rows, padding and header
    tier = open_tier(tmp_path, limit_bytes=10 * one)
    old = keys_of(1, 8)
    come(tier, old)
    come(tier, old)
    assert held(tier, old) == ((LAYERS, 8),)
    others = [keys_of(chain, 8) for chain in range(2, 5)]
    for keys in others:
        come(tier, keys)
        with closing(tier.look_up(NAMESPACE, [part_of(keys)])) as found:
            os.utime(found.parts[0].extents[0].file.path)
    assert held(tier, old) == ((2, 8),), "its rest made room for first layers"
    for keys in others:
        come(tier, keys)  # for the second time: their rest would be kept now
    assert all(held(tier, keys)[-1] == (2, 8) for keys in (*others, old)), "which takes no first layers away"
    assert tier.usage().used_bytes <= 10 * one
    tier.close()


def test_the_limit_holds_and_nothing_fails(tmp_path: Path) -> None:
    tier = open_tier(tmp_path, limit_bytes=4 * EXTENT)
    for chain in range(1, 30):
        come(tier, keys_of(chain, 8))
        assert tier.usage().used_bytes <= 4 * EXTENT
    tiny = open_tier(tmp_path / "tiny", limit_bytes=1)
    assert come(tiny, keys_of(1, 4)) == come(tiny, keys_of(1, 4)) == ()
    assert tiny.stats.refused_bytes
    tiny.close()
    tier.close()


def test_processes_share_it(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from tests.tier import world as t; from objectcache.tier import cutting;"
        "cutting.MIN_STEP_CHUNKS, cutting.STEP_BYTES = t.STEP, t.EXTENT;"
        f"tier = t.open_tier(Path({str(tmp_path)!r})); t.come(tier, t.keys_of(1, 8)); import os; os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 9
    tier = open_tier(tmp_path)
    assert held(tier, keys_of(1, 8)) == ((2, 8),), "what a process that died has kept"
    tier.close()


def test_what_is_open_survives_its_eviction(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    tier = open_tier(tmp_path)
    part = part_of(keys_of(1, 8))
    come(tier, part.keys)
    holding = tier.look_up(NAMESPACE, [part])
    for root, _, found in os.walk(tmp_path / "extents"):
        for file in found:
            os.unlink(f"{root}/{file}")
    _, units, errors = read(holding, part, executor)
    assert (sorted(units), errors) == ([0, 1], [])
    tier.close()


def test_a_tier_on_a_disk_is_refused() -> None:
    with pytest.raises(ConfigError, match="tmpfs"):
        LocalTier("/proc/self/fd", 1 << 20)  # certainly no tmpfs
    with pytest.raises(ConfigError, match="first_layers"):
        LocalTier("/nowhere", 1 << 20, first_layers=0)


def test_a_tier_that_others_can_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigError, match="anybody"):
        open_tier(tmp_path)
    tmp_path.chmod(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    if tmp_path.stat().st_uid == 0:
        os.chown(tmp_path, 12345, 12345)
    with pytest.raises(ConfigError, match="another user"):
        open_tier(tmp_path)


@pytest.mark.parametrize("name", ["", "x", "f.1.2.3", "q." + "0" * 40, ".tmp-1"])
def test_other_files_are_none_of_ours(name: str) -> None:
    assert TierName.decode(name) is None


def test_names_say_what_they_were_made_of() -> None:
    name = TierName(True, 30, 64, bytes(range(8)), OLD, 123456)
    assert TierName.decode(name.encode()) == name
    versions = ((3, OLD), (61, NEW))
    assert decode_versions(encode_versions(versions)) == versions
    for wrong in ("", "tier:", "tier:1", "tier:1-zz", "other:1-00"):
        with pytest.raises(ValueError):
            decode_versions(wrong)
