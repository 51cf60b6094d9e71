"""The file store on mounts that lack what it would use: the contract, and what is different."""

from __future__ import annotations

import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import ClassVar

import pytest

from objectcache.errors import ConfigError, ObjectExistsError, StoreUnavailableError
from objectcache.stores import FileStore, Store, child_url, open_store
from objectcache.stores.file_mount import Mount, rename_new
from objectcache.stores.file_temporaries import ABANDONED_S
from objectcache.testing.store_listing import stored_names
from objectcache.testing.stores import StoreContract
from tests.stores.lacking import without


class TestAMountThatLacksAll(StoreContract):
    model_examples = 15
    lacks: ClassVar[tuple[str, ...]] = ("links", "locks", "maps", "renames")
    also: ClassVar[tuple[str, ...]] = ()

    @pytest.fixture(autouse=True)
    def _lacking(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._roots = (tmp_path / str(number) for number in count())
        without(monkeypatch, *self.lacks, *self.also)

    def make_store(self, limit_bytes: int | None = None) -> Store:
        return FileStore(next(self._roots), limit_bytes=limit_bytes, mount=Mount.without(self.lacks))


class TestAMountOfDaos(TestAMountThatLacksAll):
    """dfuse: no hard links, and locks of one host only."""

    lacks = ("links", "locks")


class TestAMountWithoutExclusiveRenames(TestAMountThatLacksAll):
    lacks = ("links",)
    also = ("exclusive renames",)


def test_the_url_says_what_is_lacking(tmp_path: Path) -> None:
    url = f"{tmp_path.as_uri()}?lacks=locks,links"
    with open_store(url) as store:
        assert store.url == f"{tmp_path.as_uri()}?lacks=links,locks"
        store.put("b/c", b"1")
        with open_store(child_url(store.url, "b")) as child:
            assert child.url == f"{tmp_path.as_uri()}?lacks=links,locks&prefix=b"
            assert child.get("c") == b"1"
            child.put("d/e", b"2")
            with open_store(child_url(child.url, "d")) as grandchild:
                assert grandchild.get("e") == b"2"
            child.delete("c")
            child.delete("d/e")
            assert stored_names(store) == []
    for wrong in ("?lacks=legs", "?", "?lacks", "?prefix=..", "?lacks=links&lacks=maps", "?more=1"):
        with pytest.raises(ConfigError):
            open_store(tmp_path.as_uri() + wrong)


def test_whoever_was_not_told_is_told_what_to_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "links")
    with FileStore(tmp_path) as store, pytest.raises(StoreUnavailableError, match="lacks=links"):
        store.put("a", b"1", if_absent=True)


def test_uploads_lie_beside_their_object_and_go_with_their_directories(tmp_path: Path) -> None:
    with FileStore(tmp_path, mount=Mount(renames=False)) as store:
        with store.upload("a/b/c") as upload:
            upload.write(b"1")
            (temporary,) = (tmp_path / "objects/a/b").iterdir()
            assert list(store.list_prefixes()) == stored_names(store) == []
            store.put("a/b/d", b"1")
            store.delete("a/b/d")
            assert temporary.exists()
        assert list((tmp_path / "objects").iterdir()) == []


def test_what_a_dead_upload_left_goes_by_its_lock_or_its_age(tmp_path: Path) -> None:
    old_s = time.time() - ABANDONED_S - 60
    for number, mount in enumerate(
        (Mount(), Mount(locks=False), Mount(renames=False), Mount.without(["locks", "renames"]))
    ):
        root = tmp_path / str(number)
        with FileStore(root, mount=mount) as store:
            store.put("a/b", b"1")
        folder, suffix = (root / "tmp", "") if mount.renames else (root / "objects/a", ".tmp")
        for name in ("old", "new"):
            (folder / f"{name}{suffix}").write_bytes(b"123")
        os.utime(folder / f"old{suffix}", (old_s, old_s))
        with FileStore(root, mount=mount) as store:
            left = sorted(path.name for path in folder.iterdir() if path.name.startswith(("old", "new")))
            assert left == ([] if mount.locks else [f"new{suffix}"])
            assert store.usage().used_bytes == 1 + 3 * len(left)
            assert stored_names(store) == ["a/b"]


def test_own_uploads_are_neither_swept_nor_counted_twice(tmp_path: Path) -> None:
    mount = Mount.without(["locks", "renames"])
    with FileStore(tmp_path, mount=mount, rescan_s=0) as store, store.upload("a", size_bytes=10) as upload:
        upload.write(b"12345")
        for _ in range(20):
            store.put("b", b"1")
            time.sleep(0.01)
        assert store.usage().used_bytes == 11
        upload.publish()
        assert stored_names(store) == ["a", "b"]


def test_of_several_stores_one_is_first_without_links(tmp_path: Path) -> None:
    stores = [FileStore(tmp_path, mount=Mount.without(["links", "locks"])) for _ in range(4)]

    def won(turn: tuple[int, int]) -> bool:
        number, round_ = turn
        try:
            stores[number].put(f"d{round_}/a", b"%d" % number, if_absent=True)
        except ObjectExistsError:
            return False
        return True

    with ThreadPoolExecutor(4) as threads:
        wins = list(threads.map(won, [(number, round_) for round_ in range(50) for number in range(4)]))
    assert wins.count(True) == 50
    for store in stores:
        store.close()


def test_exclusive_renames(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"1")
    rename_new(str(source), str(target))
    source.write_bytes(b"2")
    with pytest.raises(FileExistsError):
        rename_new(str(source), str(target))
    assert target.read_bytes() == b"1"
    with pytest.raises(OSError, match=os.strerror(errno.ENOENT)):
        rename_new(str(tmp_path / "none"), str(tmp_path / "nowhere"))
