"""The file store: the contract, and what it is on a filesystem."""

from __future__ import annotations

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest

from objectcache.errors import ObjectNotFoundError, StoreUnavailableError
from objectcache.names import log_name
from objectcache.stores import FileStore, Store
from objectcache.testing.store_listing import stored_names
from objectcache.testing.stores import StoreContract


class TestFileStore(StoreContract):
    @pytest.fixture(autouse=True)
    def _somewhere(self, tmp_path: Path) -> None:
        self._roots = (tmp_path / str(number) for number in count())

    def make_store(self, limit_bytes: int | None = None) -> Store:
        return FileStore(next(self._roots), limit_bytes=limit_bytes)


class TestFileStoreThatKeepsScanning(TestFileStore):
    """Scans run beside all of it, and must not change what is counted."""

    def make_store(self, limit_bytes: int | None = None) -> Store:
        return FileStore(next(self._roots), limit_bytes=limit_bytes, rescan_s=0)


def _files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def _held_bytes(store: Store) -> int:
    return sum(info.size_bytes for info in store.list())


# -- on disk ------------------------------------------------------------------------------------------


def test_where_objects_lie(tmp_path: Path) -> None:
    with FileStore(tmp_path) as store:
        for name in ("log/w/000/001", "a", "a/b", "A.b c", "x" * 100):
            store.put(name, b"")
    assert _files(tmp_path) == [
        "objects/A%2Eb%20c.obj",
        "objects/a.obj",
        "objects/a/b.obj",
        "objects/log/w/000/001.obj",
        f"objects/{'x' * 80}.more/{'x' * 20}.obj",
    ]


def test_directories_stay_small(tmp_path: Path) -> None:
    with FileStore(tmp_path) as store:
        for sequence in range(5000):
            store.put(log_name("writer", sequence), b"")
        assert max(len(files) + len(below) for _, below, files in os.walk(tmp_path)) <= 1000
        assert stored_names(store) == [log_name("writer", sequence) for sequence in range(5000)]


def test_listing_reads_no_directory_before_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FileStore(tmp_path) as store:
        for sequence in range(0, 5000, 100):
            store.put(log_name("writer", sequence), b"")
        read = []
        real = os.listdir

        def listdir(path: str) -> list[str]:
            read.append(path)
            return real(path)

        monkeypatch.setattr(os, "listdir", listdir)
        listing = store.list(start_after=log_name("writer", 3850))
        assert next(listing).name == log_name("writer", 3900)
        assert len(read) == 7  # objects, .kv, log, writer, 000, 000, 003
        read.clear()
        assert len(list(store.list(log_name("writer", 4000)[:-3]))) == 10
        assert len(read) == 1


def test_emptied_directories_go(tmp_path: Path) -> None:
    with FileStore(tmp_path) as store:
        for name in ("a/b/c", "a/d", "x" * 600 + "/y"):
            store.put(name, b"")
        store.delete("a/b/c")
        assert sorted(os.listdir(tmp_path / "objects/a")) == ["d.obj"]
        store.delete("a/d")
        store.delete("x" * 600 + "/y")
        assert os.listdir(tmp_path / "objects") == []


def test_emptied_directories_go_beside_uploads_into_them(tmp_path: Path) -> None:
    def run(runner: int, store: Store) -> None:
        for _ in range(300):
            store.put(f"a/b/{runner}", b"1", if_absent=runner % 2 == 0)
            assert store.get(f"a/b/{runner}") == b"1"
            store.delete(f"a/b/{runner}")

    # Two stores, so that they do not wait for each other as threads of one do.
    with FileStore(tmp_path) as one, FileStore(tmp_path) as two, ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(run, runner, (one, two)[runner // 2]) for runner in range(4)]:
            done.result()
    assert os.listdir(tmp_path / "objects") == []
    assert os.listdir(tmp_path / "tmp") == []


def test_empty_directories_are_no_prefixes(tmp_path: Path) -> None:
    with FileStore(tmp_path) as store:
        (tmp_path / "objects/left/by/a/killed/upload").mkdir(parents=True)
        assert list(store.list_prefixes()) == []
        store.put("left/by/another", b"")
        assert list(store.list_prefixes()) == ["left/"]


def test_files_that_are_not_ours_are_not_listed(tmp_path: Path) -> None:
    with FileStore(tmp_path) as store:
        store.put("a", b"")
        for name in (".nfs0001", "README", "%41.obj", "%FF.obj", "%4.obj", "a.obj.swp", "x" * 90 + ".obj", "b c.obj"):
            (tmp_path / "objects" / name).touch()
        (tmp_path / os.fsdecode(b"objects/\xff.obj")).touch()
        for name in ("x.more", "lost+found", "c.dir"):
            (tmp_path / "objects" / name).mkdir()
            (tmp_path / "objects" / name / "d.obj").touch()
        assert stored_names(store) == ["a"]
        assert list(store.list_prefixes()) == []


def test_others_cannot_read_what_is_stored(tmp_path: Path) -> None:
    with FileStore(tmp_path / "root") as store:
        store.put("a", b"")
    assert (tmp_path / "root/objects/a.obj").stat().st_mode & 0o007 == 0
    assert (tmp_path / "root/objects").stat().st_mode & 0o007 == 0


def test_readers_give_their_descriptor(tmp_path: Path) -> None:
    with FileStore(tmp_path) as store:
        store.put("a", b"0123")
        with store.open("a") as reader, reader.files(1, 2) as ranges:
            ((descriptor, offset, length),) = ranges or ()
            assert os.pread(descriptor, length, offset) == b"12"
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


# -- usage --------------------------------------------------------------------------------------------


def test_a_store_that_is_closed_under_an_upload_publishes_nothing(tmp_path: Path) -> None:
    """Its descriptors' numbers are other files' by then."""
    store = FileStore(tmp_path, limit_bytes=1 << 20)
    with store.upload("a") as upload:
        upload.write(b"data")
        store.close()
        store.close()
        with pytest.raises(StoreUnavailableError):
            upload.publish()
    with pytest.raises(StoreUnavailableError):
        store.delete("a")
    with FileStore(tmp_path, limit_bytes=1 << 20) as again:
        assert stored_names(again) == []


def test_usage_is_found_at_open(tmp_path: Path) -> None:
    with FileStore(tmp_path) as store:
        store.put("a/b", b"x" * 1000)
        store.put("c", b"x" * 10)
    with FileStore(tmp_path) as store:
        assert store.usage().used_bytes == 1010
        store.delete("a/b")
        assert store.usage().used_bytes == 10


def test_the_default_limit_does_not_grow_with_each_opening(small_disk: Path) -> None:
    with FileStore(small_disk) as store:
        first = store.usage().limit_bytes or 0
        assert first == pytest.approx(0.8 * (4 << 20), rel=0.01)
        store.put("a", b"x" * (2 << 20))
    with FileStore(small_disk) as store:
        assert store.usage().limit_bytes == pytest.approx(first, rel=0.02)


def test_usage_is_exact_beside_scans(tmp_path: Path) -> None:
    with FileStore(tmp_path, rescan_s=0) as store:
        for number in range(200):
            store.put(f"{number % 20}/still/{number}", b"x" * 10)

        def run(runner: int) -> None:
            choose = random.Random(runner)
            for _ in range(150):
                name = f"{choose.randrange(20)}/{choose.randrange(3)}/{runner}"
                if choose.random() < 0.6:
                    store.put(name, b"x" * choose.randrange(1000))
                else:
                    store.delete(name)

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(run, range(4)))
        assert store.usage().used_bytes == _held_bytes(store)


def test_changes_of_others_are_seen(tmp_path: Path) -> None:
    with FileStore(tmp_path, rescan_s=0) as store, FileStore(tmp_path) as other:
        store.put("own", b"x" * 10)
        other.put("others", b"x" * 1000)
        with other.upload("running", size_bytes=300) as running:
            deadline_s = time.monotonic() + 20
            while store.usage().used_bytes != 1310 and time.monotonic() < deadline_s:
                store.put("own", b"x" * 10)
                time.sleep(0.01)
            assert store.usage().used_bytes == 1310
            running.abort()
        with pytest.raises(ObjectNotFoundError):
            store.head("running")
        # What others stored since the last scan is not counted yet, and its delete must not be either way.
        other.put("later", b"x" * 5000)
        for name in ("own", "others", "later"):
            store.delete(name)
        assert store.usage().used_bytes >= 0


def test_scans_keep_their_distance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FileStore(tmp_path, rescan_s=3600) as store:
        monkeypatch.setattr(os, "scandir", None)  # a scan would fail and warn
        for number in range(10):
            store.put(str(number), b"1")
        assert store.usage().used_bytes == 10
