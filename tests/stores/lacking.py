"""Mounts that lack something, emulated: the system calls answer as such a filesystem's do."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from objectcache.stores import file_mount


def _raise(number: int) -> Callable[..., NoReturn]:
    def fail(*args: Any, **options: Any) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return fail


def without(monkeypatch: pytest.MonkeyPatch, *lacks: str) -> None:
    """The whole machine is such a mount until the test ends. `exclusive renames` may be lacking too."""
    if "links" in lacks:
        monkeypatch.setattr(os, "link", _raise(errno.EPERM))
    if "locks" in lacks:
        monkeypatch.setattr(fcntl, "flock", _raise(errno.EOPNOTSUPP))
    if "exclusive renames" in lacks:
        monkeypatch.setattr(file_mount, "_rename_no_replace", lambda source, target: errno.EINVAL)
    if "renames" in lacks:
        rename, rename_no_replace = os.rename, file_mount._rename_no_replace

        def within(source: str, target: str) -> None:
            if os.path.dirname(source) != os.path.dirname(target):
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            rename(source, target)

        def no_replace_within(source: str, target: str) -> int:
            return (
                errno.EXDEV if os.path.dirname(source) != os.path.dirname(target) else rename_no_replace(source, target)
            )

        monkeypatch.setattr(os, "rename", within)
        monkeypatch.setattr(file_mount, "_rename_no_replace", no_replace_within)
