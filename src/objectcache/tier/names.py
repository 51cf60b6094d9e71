"""What a file of the tier is, told by its name, so that looking up opens no file to read it."""

from __future__ import annotations

import re
from typing import NamedTuple

from objectcache.descriptor import Versions
from objectcache.names import SEGMENT_TAG_BYTES

LEAF_BYTES = 8
MAX_VERSIONS = 32
"""Of the chunks of one file: its header names them."""
MIXED = bytes(SEGMENT_TAG_BYTES)
"""In place of the one segment's tag: the chunks are of several, which the header names."""

_NAME = re.compile(r"([fr])\.([0-9a-f]+)\.([0-9a-f]+)\.([0-9a-f]{16})\.([0-9a-f]{16})\.([0-9a-f]+)")


class TierName(NamedTuple):
    """The first `num_layers` layers of `num_chunks` chunks, or (`rest`) the last `num_layers`.

    `leaf` is the beginning of the last chunk's key, `tag` the segment's that the chunks are of, or MIXED.
    """

    rest: bool
    num_layers: int
    num_chunks: int
    leaf: bytes
    tag: bytes
    size_bytes: int

    def encode(self) -> str:
        kind = "r" if self.rest else "f"
        return f"{kind}.{self.num_layers:x}.{self.num_chunks:x}.{self.leaf.hex()}.{self.tag.hex()}.{self.size_bytes:x}"

    @classmethod
    def decode(cls, name: str) -> TierName | None:
        """None for a file that is not the tier's."""
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        kind, layers, chunks, leaf, tag, size = found.groups()
        return cls(
            kind == "r", int(layers, 16), int(chunks, 16), bytes.fromhex(leaf), bytes.fromhex(tag), int(size, 16)
        )


def rank_of(name: str) -> int:
    """First layers are kept before the rest of any prefix: they are the only transfer that nothing hides."""
    return 1 if name.startswith("r") else 0


def encode_versions(versions: Versions) -> str:
    """The name in the header of a tier's file."""
    return "tier:" + ",".join(f"{chunks:x}-{tag.hex()}" for chunks, tag in versions)


def decode_versions(name: str) -> Versions:
    """Raises ValueError."""
    if not name.startswith("tier:"):
        raise ValueError(f"{name!r} does not name versions")
    pairs = (pair.split("-") for pair in name[5:].split(","))
    return tuple((int(chunks, 16), bytes.fromhex(tag)) for chunks, tag in pairs)


def cut_versions(versions: Versions, first: int, stop: int) -> Versions:
    """Those of chunks [first, stop), neighbours of one segment together."""
    cut: list[tuple[int, bytes]] = []
    at = 0
    for chunks, tag in versions:
        common = min(stop, at + chunks) - max(first, at)
        at += chunks
        if common <= 0:
            continue
        if cut and cut[-1][1] == tag:
            common += cut.pop()[0]
        cut.append((common, tag))
    return tuple(cut)
