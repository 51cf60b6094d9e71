"""What the tier holds of a part: files that lie one behind the other from its first chunk on."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from objectcache.descriptor import HeldChunks
from objectcache.errors import ObjectCacheError
from objectcache.keys import KEY_BYTES, KeyChain
from objectcache.stores.read_cache_extents import Extent, Extents
from objectcache.tier.covering import common_chunks, reach, versions_of
from objectcache.tier.cutting import step_chunks
from objectcache.tier.files import TierFile
from objectcache.tier.holding import HeldExtent, HeldPart
from objectcache.tier.mappings import Mappings
from objectcache.tier.names import LEAF_BYTES, TierName
from objectcache.tier.parts import TierPart, extent_name

MAX_LOOKED_INTO = 8
"""Files whose names do not say whether they begin as what is wanted: prompts that share a beginning leave many."""


class Finder:
    """Looks among `extents`, and first in `mappings`. It follows what is there, however that was cut."""

    def __init__(self, extents: Extents, mappings: Mappings, discard: Callable[[TierFile], None]) -> None:
        """`discard(file)` takes a file out of the tier that is damaged, or of no use."""
        self._extents = extents
        self._mappings = mappings
        self._discard = discard

    def held(self, namespace: bytes, part: TierPart) -> HeldPart:
        """What is held of `part`, its files open."""
        first = self._covering(part, rest=False)
        rest = self._covering(part, rest=True) if first else []
        first_chunks, first_layers = reach(first)
        rest_chunks, rest_layers = reach(rest)
        versions = versions_of(first)
        first_chunks = min(first_chunks, sum(chunks for chunks, _ in versions))
        complete = first_layers + rest_layers == len(part.shape.layers)
        both_chunks = min(first_chunks, rest_chunks) if complete else 0
        # A chunk's layers are of one version: the rest counts as far as it is of the versions of the first layers.
        rest_chunks = min(both_chunks, common_chunks(versions, versions_of(rest)))
        steps = [(part.shape.layers[-1] + 1, rest_chunks)] if rest_chunks else []
        if first_chunks > rest_chunks:
            steps.append((part.shape.layers[first_layers - 1] + 1, first_chunks))
        used = [extent for extent in first if extent.at < first_chunks]
        for extent in rest:
            differs = rest_chunks < min(both_chunks, extent.at + extent.count) and extent.at < first_chunks
            if differs:
                self._discard(extent.file)  # of another version than the first layers: it is to be kept anew
            if extent.at < rest_chunks:
                used.append(_shortened(extent, rest_chunks - extent.at) if differs else extent)
        kept = {id(extent.file) for extent in used}
        for extent in (*first, *rest):
            if id(extent.file) not in kept:
                extent.file.close()
        return HeldPart(HeldChunks(part.group, part.shard, part.first, tuple(steps), versions), tuple(used))

    def _covering(self, part: TierPart, *, rest: bool) -> list[HeldExtent]:
        """The extents that cover the part from its first chunk on without a gap, alike in their layers.

        None for a part that begins within a step: its chunks are read from the store.
        """
        step = step_chunks(part.shape.slice_bytes)
        if part.first % step:
            return []
        layers = part.shape.layers
        covering: list[HeldExtent] = []
        num_layers: int | None = None
        reached = 0
        while reached < len(part.keys):
            found = self._next(part, covering, reached, step, rest=rest, num_layers=num_layers)
            if found is None:
                break
            file, at, count = found
            if at < reached:
                last = covering.pop()
                covering.append(_shortened(last, at - last.at))
            num_layers = file.name.num_layers
            mine = layers[len(layers) - num_layers :] if rest else layers[:num_layers]
            reached = at + count
            covering.append(HeldExtent(file, at, count, mine, part.keys[at:reached]))
        return covering

    def _next(
        self,
        part: TierPart,
        covering: Sequence[HeldExtent],
        reached: int,
        step: int,
        *,
        rest: bool,
        num_layers: int | None,
    ) -> tuple[TierFile, int, int] | None:
        """The file that goes on where `covering` ends, where it begins, and how many of its chunks are wanted.

        It may begin before that: where a file turns out to be of another prefix from some chunk on, the one that is of
        this begins at a step before.
        """
        at = reached - reached % step
        before = covering[-1].at if covering else -1
        while at > before:
            found = self._best(part, at, step, rest=rest, num_layers=num_layers)
            if found is not None:
                file, count = found
                if at + count > reached:
                    return file, at, count
                file.close()
            if not at:
                break
            at &= at - 1  # pieces of more steps begin at multiples of themselves
        return None

    def _best(
        self, part: TierPart, at: int, step: int, *, rest: bool, num_layers: int | None
    ) -> tuple[TierFile, int] | None:
        """The file that covers most of `part` from chunk `at` on, open, and how many chunks that are."""
        left = len(part.keys) - at
        mapped = self._mappings.find(part.group, part.shard, part.keys, at, step, rest=rest, num_layers=num_layers)
        if mapped is not None:
            if mapped.name.num_layers <= len(part.shape.layers):
                mapped.touch(self._extents)
                return mapped, min(mapped.name.num_chunks, left)
            mapped.close()
        directory = self._extents.directory("tier", extent_name(part, part.keys[at]))
        best: tuple[TierFile, int] | None = None
        for certain, name, found in _candidates(directory, part, at, rest=rest, num_layers=num_layers):
            if best is not None and min(found.num_chunks, left) <= best[1]:
                continue
            file = self._open(f"{directory}/{name}", found)
            if file is None:
                continue
            count = found.num_chunks if certain else self._shared_chunks(file, part.keys, at)
            if count <= (best[1] if best else 0):
                file.close()
                continue
            if best is not None:
                best[0].close()
            best = file, count
        if best is not None:
            best[0].touch(self._extents)
        return best

    def _open(self, path: str, name: TierName) -> TierFile | None:
        """None for one that is not there any more."""
        mapped = self._mappings.at(path)
        if mapped is not None:
            return mapped
        descriptor = self._extents.open(Extent(path, 0, name.size_bytes), touch=False)
        return None if descriptor is None else TierFile(path, name, descriptor)

    def _shared_chunks(self, file: TierFile, keys: KeyChain, at: int) -> int:
        """How many chunks of a file are those of `keys` from `at` on."""
        try:
            held = file.keys()
        except ObjectCacheError:
            self._discard(file)
            return 0
        return _common(held.data, keys[at : at + len(held)].data)


def _shortened(extent: HeldExtent, count: int) -> HeldExtent:
    return replace(extent, count=count, keys=extent.keys[:count])


def _candidates(
    directory: str, part: TierPart, at: int, *, rest: bool, num_layers: int | None
) -> list[tuple[bool, str, TierName]]:
    """(whether all its chunks are wanted, file name, what that says): those, and the longest, first."""
    candidates = []
    for name in _names_in(directory):
        found = TierName.decode(name)
        if found is None or found.rest is not rest or num_layers not in (None, found.num_layers):
            continue
        if not 0 < found.num_layers <= len(part.shape.layers):
            continue
        stop = at + found.num_chunks
        certain = stop <= len(part.keys) and part.keys[stop - 1][:LEAF_BYTES] == found.leaf
        candidates.append((certain, name, found))
    candidates.sort(key=lambda candidate: (candidate[0], candidate[2].num_chunks), reverse=True)
    return candidates[: sum(candidate[0] for candidate in candidates) + MAX_LOOKED_INTO]


def _names_in(directory: str) -> Sequence[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _common(one: bytes, other: bytes) -> int:
    """How many keys from the first on are the same."""
    size = min(len(one), len(other))
    differ = np.frombuffer(one, np.uint64, size // 8) != np.frombuffer(other, np.uint64, size // 8)
    return (int(differ.argmax()) if differ.any() else len(differ)) * 8 // KEY_BYTES
