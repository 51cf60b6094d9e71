"""Where a tier may be: in memory, and where nobody else can put files."""

from __future__ import annotations

import os

from objectcache.errors import ConfigError


def prepare_directory(directory: str, *, on_disk: bool) -> None:
    """Make `directory` if it is missing. Raises ConfigError where it must not be used.

    Whoever may write there may poison: files of a tier vouch for themselves.
    """
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        found = os.stat(directory)
    except OSError as error:
        raise ConfigError(f"{directory!r} cannot hold a local tier: {error.strerror}") from error
    if found.st_uid not in (os.geteuid(), 0) or found.st_mode & 0o002:
        raise ConfigError(f"{directory!r} cannot hold a local tier: another user owns it, or anybody may write there")
    if not on_disk and not _in_memory(directory):
        raise ConfigError(f"{directory!r} is on a disk: a local tier belongs on a tmpfs, such as /dev/shm")


def _in_memory(directory: str) -> bool:
    """Whether the file system is a tmpfs."""
    path = os.path.realpath(directory)
    best, kind = "", ""
    with open("/proc/self/mounts", encoding="utf-8", errors="replace") as mounts:
        for line in mounts:
            _, point, fs, *_ = line.split()
            point = point.replace("\\040", " ")
            if len(point) >= len(best) and (path == point or path.startswith(point.rstrip("/") + "/")):
                best, kind = point, fs
    return kind in ("tmpfs", "ramfs")
