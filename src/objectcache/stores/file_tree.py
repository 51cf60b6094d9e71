"""Object names as paths below one directory, and a walk in the order of the names' UTF-8 bytes.

All but the last component of a name are directories. Bytes other than A-Z a-z 0-9 - _ = are percent-encoded, so that
every name is possible and means the same to filesystems that normalise Unicode; `.` is free to tell what an entry is:

    NAME.obj     an object
    NAME         a directory: what lies below "NAME/"
    NAME.more    a directory: what begins with NAME and goes on in the same component, by the same three rules

`.more` takes components that would pass the 255 bytes an entry may have: they are cut every 80 bytes. Both files and
directories may hence be of one name. An empty NAME (after a cut) is written `.dir` as a directory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from enum import Enum, auto
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from objectcache.stores.os_errors import ABSENT

_PIECE_BYTES = 80
_OBJECT, _MORE, _EMPTY_DIRECTORY = ".obj", ".more", ".dir"
_PLAIN = re.compile(rb"[A-Za-z0-9_=-]*")
_PLAIN_OBJECT = re.compile(r"[A-Za-z0-9_=-]{0,79}\.obj")
_ENCODED = [chr(byte) if _PLAIN.fullmatch(bytes([byte])) and byte < 128 else f"%{byte:02X}" for byte in range(256)]


def _encode(piece: bytes) -> str:
    return piece.decode("ascii") if _PLAIN.fullmatch(piece) else "".join([_ENCODED[byte] for byte in piece])


def _cut(component: bytes) -> tuple[list[str], bytes]:
    """The `.more` directories that a component goes through, and its rest (under 80 bytes)."""
    # Whatever has 80 bytes is cut, even to an empty rest: then no other entry begins with the name of a `.more`,
    # and its content need not be merged with its neighbours to be in order.
    through = []
    while len(component) >= _PIECE_BYTES:
        through.append(_encode(component[:_PIECE_BYTES]) + _MORE)
        component = component[_PIECE_BYTES:]
    return through, component


def _directories(components: list[bytes]) -> list[str]:
    path = []
    for component in components:
        through, rest = _cut(component)
        path += [*through, _encode(rest) or _EMPTY_DIRECTORY]
    return path


def object_path(root: str, name: str) -> str:
    """The file of the object `name` below `root`."""
    *directories, last = name.encode().split(b"/")
    through, rest = _cut(last)
    return "/".join([root, *_directories(directories), *through, _encode(rest) + _OBJECT])


def directory_path(root: str, prefix: str) -> str:
    """The directory of all that lies below `prefix` + "/"; `root` itself for ""."""
    return "/".join([root, *_directories(prefix.encode().split(b"/"))]) if prefix else root


class _Kind(Enum):
    OBJECT = auto()
    DIRECTORY = auto()
    MORE = auto()


class _Entry(NamedTuple):
    """`name` is what the names below begin with (directories with their "/"), or the object's whole name."""

    name: bytes
    path: str
    kind: _Kind


def _parse(entry: str) -> tuple[bytes, _Kind] | None:
    """The decoded name and kind of a directory entry; None when it is none of ours."""
    encoded, dot, suffix = entry.partition(".")
    kind = {"": _Kind.DIRECTORY, "obj": _Kind.OBJECT, "more": _Kind.MORE, "dir": _Kind.DIRECTORY}.get(suffix)
    if kind is None or (kind is _Kind.DIRECTORY and bool(dot) == bool(encoded)):
        return None
    decoded = unquote_to_bytes(os.fsencode(encoded))
    cut_right = len(decoded) == _PIECE_BYTES if kind is _Kind.MORE else len(decoded) < _PIECE_BYTES
    # Another spelling of a name would list an object that cannot be opened.
    return (decoded, kind) if cut_right and _encode(decoded) == encoded else None


def _entries(directory: str, begin: bytes, start_after: bytes | None = None) -> list[_Entry]:
    """What `directory` holds, in order, but objects up to `start_after`; `begin` is what the names in it begin with.

    Empty when it is gone.
    """
    try:
        names = os.listdir(directory)
    except OSError as error:
        if error.errno in ABSENT:
            return []
        raise
    entries = []
    for name in names:
        if _PLAIN_OBJECT.fullmatch(name):  # as most are: it says what it is
            whole = begin + name[: -len(_OBJECT)].encode("ascii")
            if start_after is None or whole > start_after:
                entries.append(_Entry(whole, f"{directory}/{name}", _Kind.OBJECT))
            continue
        parsed = _parse(name)
        if parsed is not None:
            decoded, kind = parsed
            end = b"/" if kind is _Kind.DIRECTORY else b""
            entries.append(_Entry(begin + decoded + end, f"{directory}/{name}", kind))
    entries.sort()
    return entries


def _start(root: str, prefix: bytes) -> tuple[str, bytes]:
    """The deepest directory that holds everything beginning with `prefix`, and what the names in it begin with."""
    *directories, last = prefix.split(b"/")
    through, rest = _cut(last)
    return "/".join([root, *_directories(directories), *through]), prefix[: len(prefix) - len(rest)]


def walk(root: str, prefix: bytes = b"", start_after: bytes = b"") -> Iterator[tuple[bytes, str]]:
    """(name, path) of the objects that begin with `prefix`, after `start_after`, in order of the names' bytes.

    Reads one directory at a time, and none that lies wholly before `start_after`. Raises OSError.
    """
    stack = [iter(_entries(*_start(root, prefix), start_after))]
    while stack:
        for name, path, kind in stack[-1]:
            if kind is _Kind.OBJECT:
                if name > start_after and name.startswith(prefix):
                    yield name, path
            elif (name.startswith(prefix) or prefix.startswith(name)) and (
                name > start_after or start_after.startswith(name)
            ):
                stack.append(iter(_entries(path, name, start_after)))
                break
        else:
            stack.pop()


def walk_directories(root: str, prefix: bytes) -> Iterator[bytes]:
    """`prefix` + component + "/" of the directories below `prefix` ("" or ends in "/") that hold objects, in order."""
    stack = [iter(_entries(*_start(root, prefix)))]
    while stack:
        for name, path, kind in stack[-1]:
            if kind is _Kind.DIRECTORY and _holds_objects(path):
                yield name
            elif kind is _Kind.MORE:
                stack.append(iter(_entries(path, name)))
                break
        else:
            stack.pop()


def _holds_objects(directory: str) -> bool:
    """Whether any object is below: directories are empty for a moment before an upload and after a delete."""
    directories = [directory]
    while directories:
        for _, path, kind in _entries(directories.pop(), b""):
            if kind is _Kind.OBJECT:
                return True
            directories.append(path)
    return False
