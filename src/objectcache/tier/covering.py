"""What extents that follow each other hold together."""

from __future__ import annotations

from collections.abc import Sequence

from objectcache.descriptor import Versions
from objectcache.errors import IntegrityError
from objectcache.tier.holding import HeldExtent
from objectcache.tier.names import MIXED, cut_versions


def reach(extents: Sequence[HeldExtent]) -> tuple[int, int]:
    """How many chunks, of how many layers."""
    return (extents[-1].at + extents[-1].count, extents[-1].file.name.num_layers) if extents else (0, 0)


def versions_of(extents: Sequence[HeldExtent]) -> Versions:
    """Of all their chunks; as far as they can be read."""
    versions: list[tuple[int, bytes]] = []
    for extent in extents:
        if extent.file.name.tag != MIXED:
            versions.append((extent.count, extent.file.name.tag))
            continue
        try:
            versions += cut_versions(extent.file.versions(), 0, extent.count)
        except IntegrityError:
            break
    return cut_versions(tuple(versions), 0, 1 << 62)


def common_chunks(one: Versions, other: Versions) -> int:
    """How many chunks from the start on are of one version in both, each without neighbours of one segment."""
    common = 0
    for (chunks, tag), (other_chunks, other_tag) in zip(one, other, strict=False):
        if tag != other_tag:
            break
        common += min(chunks, other_chunks)
        if chunks != other_chunks:
            break
    return common
