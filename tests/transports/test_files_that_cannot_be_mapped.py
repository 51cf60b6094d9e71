"""Placing in shared memory from filesystems that map nothing."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest

from objectcache.errors import StoreUnavailableError
from objectcache.stores import FileRange
from objectcache.transports.shared_memory import MappedFiles, mapped_files


@pytest.mark.parametrize("number", [errno.ENODEV, errno.EOPNOTSUPP, errno.EIO])
def test_files_are_read_where_they_cannot_be_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(descriptor: int, offset: int, length: int) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(mapped_files, "FileWindow", fail)
    data = os.urandom(100_000)
    (tmp_path / "file").write_bytes(data)
    files, out = MappedFiles(), bytearray(50_000)
    with (tmp_path / "file").open("rb") as file:
        wanted = FileRange(file.fileno(), 1000, len(out))
        if number == errno.EIO:
            with pytest.raises(StoreUnavailableError):
                files.copy(wanted, memoryview(out))
            return
        files.copy(wanted, memoryview(out))
    assert out == data[1000:51_000]
    assert files.mapped_bytes == 0
