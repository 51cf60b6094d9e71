"""Disks that fail."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stores.read_cache_world import World

SMALL_DISK_BYTES = 4 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real filesystem of 4 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_BYTES}", "tmpfs", str(disk)]
    try:
        made = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command to make a small filesystem with")
    if made.returncode:
        pytest.skip(f"a small filesystem cannot be mounted here (that takes root): {made.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.fixture
def disk_fault(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`disk_fault("write", errno.EIO)`: that system call fails from now on, or after `good` calls."""

    def fail(call: str, number: int, *, good: int = 0) -> None:
        module: Any = fcntl if call == "flock" else os
        real = getattr(module, call)
        calls = iter(range(good))

        def faulty(*args: Any, **options: Any) -> Any:
            if next(calls, None) is None:
                raise OSError(number, os.strerror(number))
            return real(*args, **options)

        monkeypatch.setattr(module, call, faulty)

    return fail


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A read cache, in `tmp_path`."""
    made = World(tmp_path / "cache")
    yield made
    for cache in made.caches:
        cache.close()
