"""What is asked of the tier: parts of a request, cut into extents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from objectcache.keys import KEY_BYTES, KeyChain
from objectcache.layout import PartShape
from objectcache.tier.names import extent_chunks


@dataclass(frozen=True, slots=True)
class TierPart:
    """Chunks [first, first + len(keys)) of one shard, as asked for."""

    group: int
    shard: int
    first: int
    chunk_tokens: int
    keys: KeyChain
    shape: PartShape


@dataclass(slots=True)
class TierStats:
    """What has happened since the tier was opened by this process."""

    hits: int = 0
    misses: int = 0
    read_bytes: int = 0
    kept_bytes: int = 0
    refused_bytes: int = 0


class WantedExtent(NamedTuple):
    """One extent of a part: chunks [at, at + len(keys)) of what is asked for. `parent` is the key before it."""

    directory: str
    at: int
    depth: int
    parent: bytes
    keys: KeyChain


def extents_of(namespace: bytes, part: TierPart, directory: Callable[[str], str]) -> list[WantedExtent]:
    """The extents that `part` is cut into; `directory(name)` is where those of a name are.

    None for a window that begins within an extent: its chunks are read from the store.
    """
    step = extent_chunks(part.shape.slice_bytes)
    if part.first % step:
        return []
    wanted = []
    data, size = part.keys.data, step * KEY_BYTES  # by its bytes: there are dozens, and a prompt waits
    parent = b"" if part.first else namespace
    suffix = f"/{part.group}.{part.shard}"
    for number, at in enumerate(range(0, len(data), size)):
        keys = data[at : at + size]
        place = directory(keys[:KEY_BYTES].hex() + suffix)
        wanted.append(WantedExtent(place, number * step, part.first + number * step, parent, KeyChain(keys)))
        parent = keys[-KEY_BYTES:]
    return wanted
