"""What a mount may lack that a file store would use, and what is done instead."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass

from objectcache.errors import ConfigError

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_NOT_THERE = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}
NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
"""How a filesystem says that it has no hard links."""

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Mount:
    """What the filesystem below a file store has. `docs/stores.md` says which mounts lack what.

    `links`: hard links. Without, an object that must be new is renamed under the condition that nothing has its name.
    `locks`: locks that hold on all hosts. Without, what a dead upload left is known by its age, and of two hosts that
    replace one object under a condition at the same time, both may succeed.
    `renames`: from one directory to another. Without, uploads are written beside where they will be.
    `maps`: memory maps and sendfile that show what others have written. Without, files are only read.
    """

    links: bool = True
    locks: bool = True
    renames: bool = True
    maps: bool = True

    @classmethod
    def without(cls, lacks: Iterable[str]) -> Mount:
        """Raises ConfigError for what a mount cannot lack."""
        words = set(lacks)
        known = set(cls.__slots__)
        if not words <= known:
            raise ConfigError(f"a mount may lack {', '.join(sorted(known))}, not {', '.join(sorted(words - known))}")
        return cls(**dict.fromkeys(words, False))

    @property
    def lacks(self) -> tuple[str, ...]:
        return tuple(sorted(name for name in self.__slots__ if not getattr(self, name)))


def rename_new(source: str, target: str) -> None:
    """Rename, unless `target` is there: FileExistsError. At once where the filesystem can; raises OSError."""
    number = _rename_no_replace(source, target)
    if number in _NOT_THERE:
        # For one at a time only: whoever calls this keeps the others of this host away.
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        os.rename(source, target)
    elif number:
        raise OSError(number, os.strerror(number), target)


def _rename_no_replace(source: str, target: str) -> int:
    """The number of the error, 0 for none."""
    try:
        call = _libc.renameat2
    except AttributeError:
        return errno.ENOSYS
    names = os.fsencode(source), os.fsencode(target)
    if call(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_NOREPLACE) == 0:
        return 0
    return ctypes.get_errno()
