"""The file store when disks fill and fail."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from objectcache.errors import ObjectNotFoundError, StoreFullError, StoreUnavailableError
from objectcache.stores import FileStore
from objectcache.testing.store_listing import stored_names

DiskFault = Callable[..., None]


# -- disks that are full ------------------------------------------------------------------------------


def test_a_full_disk(small_disk: Path) -> None:
    with FileStore(small_disk, limit_bytes=1 << 30) as store:
        store.put("a", b"a" * (2 << 20))
        with pytest.raises(StoreFullError):
            store.upload("b", size_bytes=3 << 20)
        with store.upload("b") as upload:
            upload.write(b"b" * (1 << 20))
            with pytest.raises(StoreFullError):
                upload.write(b"b" * (2 << 20))
        assert os.listdir(small_disk / "tmp") == []
        assert stored_names(store) == ["a"]
        assert store.get("a") == b"a" * (2 << 20)
        assert store.usage().used_bytes == 2 << 20
        store.put("b", b"b" * (1 << 20))
        store.delete("a")
        store.put("c", b"c" * (2 << 20))
        assert stored_names(store) == ["b", "c"]


def test_a_disk_without_inodes(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,nr_inodes=40", str(small_disk)], check=True)
    stored = 0
    with FileStore(small_disk, limit_bytes=1 << 30) as store:
        for number in range(100):
            with suppress(StoreFullError):
                store.put(f"{number}/a", b"1")
                stored += 1
        assert 10 < stored < 40
        assert len(stored_names(store)) == stored
        assert os.listdir(small_disk / "tmp") == []


def test_a_disk_that_becomes_read_only(small_disk: Path) -> None:
    with FileStore(small_disk) as store:
        store.put("a", b"1")
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        for change in (lambda: store.put("b", b"2"), lambda: store.delete("a")):
            with pytest.raises(StoreUnavailableError):
                change()
        assert store.get("a") == b"1"
        assert stored_names(store) == ["a"]
        assert store.usage().used_bytes == 1


# -- disks that fail ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["write", "ftruncate", "utime", "dup", "rename", "link", "posix_fallocate", "flock"])
def test_failed_writing_leaves_nothing(tmp_path: Path, disk_fault: DiskFault, call: str, number: int) -> None:
    expected = StoreUnavailableError if number == errno.EIO else StoreFullError
    with FileStore(tmp_path) as store:
        store.put("a", b"old")
        disk_fault(call, number)
        with pytest.raises(expected) as raised:
            store.put("a" if call == "rename" else "b", b"new", if_absent=call == "link")
        assert isinstance(raised.value.__cause__, OSError)
        assert store.usage().used_bytes == 3
        assert store.get("a") == b"old"
        assert stored_names(store) == ["a"]
    assert os.listdir(tmp_path / "tmp") == []


def test_failed_reading(tmp_path: Path, disk_fault: DiskFault) -> None:
    with FileStore(tmp_path) as store:
        store.put("a", b"0123")
        with store.open("a") as reader:
            disk_fault("preadv", errno.EIO)
            with pytest.raises(StoreUnavailableError):
                reader.read(0, 4)


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EMFILE])
def test_failed_look_ups_are_not_absence(tmp_path: Path, disk_fault: DiskFault, number: int) -> None:
    with FileStore(tmp_path) as store:
        store.put("a", b"0123")
        for call in ("open", "stat", "listdir", "unlink"):
            disk_fault(call, number)
        for look in (store.open, store.head, store.delete):
            with pytest.raises(StoreUnavailableError):
                look("a")
        for listing in (store.list, store.list_prefixes):
            with pytest.raises(StoreUnavailableError):
                next(iter(listing()))
        assert store.usage().used_bytes == 4


def test_deleted_by_another_host(tmp_path: Path, disk_fault: DiskFault) -> None:
    with FileStore(tmp_path) as store:
        store.put("a", b"0123")
        disk_fault("stat", errno.ESTALE)
        with pytest.raises(ObjectNotFoundError):
            store.head("a")
        assert stored_names(store) == []


def test_a_short_read_and_a_short_write_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preadv, write = os.preadv, os.write
    with FileStore(tmp_path) as store:
        with store.upload("a") as upload:
            monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
            upload.write(b"0123456789")
            monkeypatch.setattr(os, "write", write)
            upload.publish()
        with store.open("a") as reader:
            monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: preadv(fd, [buffers[0][:3]], offset))
            assert reader.read(1, 8) == b"12345678"


def test_a_truncated_file_is_an_error(tmp_path: Path) -> None:
    with FileStore(tmp_path) as store:
        store.put("a", b"0123")
        with store.open("a") as reader:
            os.truncate(tmp_path / "objects/a.obj", 2)
            with pytest.raises(StoreUnavailableError):
                reader.read(0, 4)


def test_a_lost_answer_to_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.link

    def link(source: str, target: str) -> None:
        with suppress(FileExistsError):
            real(source, target)
        raise FileExistsError(errno.EEXIST, "asked twice")

    monkeypatch.setattr(os, "link", link)
    with FileStore(tmp_path) as store:
        assert store.put("a", b"1", if_absent=True).size_bytes == 1
        assert store.get("a") == b"1"
        assert store.usage().used_bytes == 1


def test_a_vanished_temporary(tmp_path: Path) -> None:
    with FileStore(tmp_path) as store:
        with store.upload("a/b") as upload:
            upload.write(b"1")
            for name in os.listdir(tmp_path / "tmp"):
                os.unlink(tmp_path / "tmp" / name)
            with pytest.raises(StoreUnavailableError):
                upload.publish()
        assert stored_names(store) == []
        assert store.usage().used_bytes == 0


@pytest.mark.parametrize(
    ("call", "number"),
    [("flock", errno.ENOLCK), ("posix_fallocate", errno.EOPNOTSUPP), ("posix_fallocate", errno.EINVAL)],
)
def test_filesystems_that_lack_something(tmp_path: Path, disk_fault: DiskFault, call: str, number: int) -> None:
    disk_fault(call, number)
    with FileStore(tmp_path) as store, store.upload("a", size_bytes=5) as upload:
        with FileStore(tmp_path):
            pass  # sweeps
        upload.write(b"1")
        upload.publish()
        assert store.get("a") == b"1"


def test_a_failed_scan_keeps_the_count(tmp_path: Path, disk_fault: DiskFault, caplog: pytest.LogCaptureFixture) -> None:
    with FileStore(tmp_path, rescan_s=0) as store:
        disk_fault("scandir", errno.EIO)
        deadline_s = time.monotonic() + 20
        while "usage is kept" not in caplog.text and time.monotonic() < deadline_s:
            store.put("a", b"1")
            time.sleep(0.01)
    assert "usage is kept" in caplog.text
    assert store.usage().used_bytes == 1


def test_a_disk_that_fails_at_open(tmp_path: Path, disk_fault: DiskFault) -> None:
    disk_fault("scandir", errno.EIO)
    with pytest.raises(StoreUnavailableError):
        FileStore(tmp_path)
    disk_fault("mkdir", errno.EIO)
    with pytest.raises(StoreUnavailableError):
        FileStore(tmp_path / "new")
