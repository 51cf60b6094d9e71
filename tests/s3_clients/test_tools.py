"""What people do with a bucket, by every client: one file, folders, large files, and taking it away again."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

from tests.s3_clients.tools import Tool

LARGE_BYTES = 100 << 20
TEXT = "".join(f"line {number} of a text\n" for number in range(10_000)).encode()
ODD_NAME = "with space/ünï-code+plus&and=~'(1).txt"


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_one_object(tool: Tool, tmp_path: Path) -> None:
    prefix = f"{tool.name}/one/"
    tool.put(write(tmp_path / "text", TEXT), prefix + ODD_NAME)
    assert tool.list(prefix) == [prefix + ODD_NAME]
    tool.get(prefix + ODD_NAME, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == TEXT
    assert tool.get_tail(prefix + ODD_NAME, 100_000, tmp_path / "tail") == TEXT[100_000:]
    tool.copy(prefix + ODD_NAME, prefix + "copy")
    tool.get(prefix + "copy", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == TEXT
    tool.delete(prefix + ODD_NAME)
    assert tool.list(prefix) == [prefix + "copy"]


def test_folders(tool: Tool, tmp_path: Path) -> None:
    prefix = f"{tool.name}/folder/"
    sizes = random.Random(1)
    names = ["empty", "a/b/c/deep", ODD_NAME, *(f"many/{number:02d}" for number in range(40))]
    for name in names:
        size = 0 if name == "empty" else sizes.randrange(1, 200_000)
        write(tmp_path / "up" / name, sizes.randbytes(size))
    tool.sync_up(tmp_path / "up", prefix)
    assert tool.list(prefix) == sorted(prefix + name for name in names)
    tool.sync_down(prefix, tmp_path / "down")
    assert content_of(tmp_path / "down") == content_of(tmp_path / "up")
    tool.delete_all(prefix + "many/")
    assert tool.list(prefix) == sorted(prefix + name for name in names if not name.startswith("many/"))


def test_a_large_object_goes_in_parts(tool: Tool, s3: Any, tmp_path: Path) -> None:
    key = f"{tool.name}/large"
    content = random.Random(2).randbytes(1 << 20) * (LARGE_BYTES >> 20)
    tool.put(write(tmp_path / "large", content), key)
    tool.get(key, tmp_path / "back")
    with (tmp_path / "back").open("rb") as file:
        assert hashlib.file_digest(file, "sha256").digest() == hashlib.sha256(content).digest()
    etag = s3.head_object(Bucket=tool.bucket, Key=key)["ETag"].strip('"')
    assert int(etag.partition("-")[2]) > 5  # so many parts
    tool.delete(key)
    assert tool.list(key) == []
