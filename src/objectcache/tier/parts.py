"""What is asked of the tier: parts of a request, and extents of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from objectcache.keys import KeyChain
from objectcache.layout import PartShape


@dataclass(frozen=True, slots=True)
class TierPart:
    """Chunks [first, first + len(keys)) of one shard, as asked for."""

    group: int
    shard: int
    first: int
    chunk_tokens: int
    keys: KeyChain
    shape: PartShape
    windowed: bool = False
    """Whether it is the last chunks that its group needs, rather than all."""

    @property
    def grows(self) -> bool:
        """Whether what is asked for later begins where this does: else files of more than a step would be of no use to
        what begins within them."""
        return not self.first and not self.windowed


@dataclass(slots=True)
class TierStats:
    """What has happened since the tier was opened by this process."""

    hits: int = 0
    misses: int = 0
    read_bytes: int = 0
    kept_bytes: int = 0
    refused_bytes: int = 0


class WantedExtent(NamedTuple):
    """One extent of a part: chunks [at, at + len(keys)) of what is asked for. `parent` is the key before it, empty
    where that is not known."""

    directory: str
    at: int
    depth: int
    parent: bytes
    keys: KeyChain


def wanted_extent(
    namespace: bytes, part: TierPart, at: int, stop: int, directory: Callable[[str], str]
) -> WantedExtent:
    """Chunks [at, stop) of `part`; `directory(name)` is where the extents of a name are."""
    keys = part.keys[at:stop]
    before = part.keys[at - 1] if at else b"" if part.first else namespace
    return WantedExtent(directory(extent_name(part, keys[0])), at, part.first + at, before, keys)


def extent_name(part: TierPart, key: bytes) -> str:
    """Of all extents of its shard that begin with the chunk `key`."""
    return f"{key.hex()}/{part.group}.{part.shard}"
