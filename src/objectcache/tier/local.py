"""The tier itself: looking up what is held, and keeping what was delivered.

Files on a file system in memory, each a segment of some layers of up to `extent_chunks` chunks at a like depth of every
chain. A prefix that is new leaves its first layers; when it comes again, and those are still there, the rest of it is
kept as well. The rest goes before any first layers do, and never displaces them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from threading import Lock

from objectcache.descriptor import Versions
from objectcache.errors import ConfigError, IntegrityError, ObjectCacheError
from objectcache.keys import KeyChain
from objectcache.layout import DeliveryGeometry
from objectcache.stores.base import StoreUsage
from objectcache.stores.read_cache_extents import Extent, Extents
from objectcache.tier.directory import prepare_directory
from objectcache.tier.files import TierFile
from objectcache.tier.holding import HeldExtent, HeldPart, Holding
from objectcache.tier.keeping import extent_header, write_extent
from objectcache.tier.names import MAX_VERSIONS, MIXED, TierName, cut_versions, rank_of
from objectcache.tier.parts import TierPart, TierStats, WantedExtent, extents_of

log = logging.getLogger(__name__)

DEFAULT_FIRST_LAYERS = 2
_LEAF_BYTES = 8
MAX_LOOKED_INTO = 8
"""Files whose names do not say whether they begin as what is wanted: prompts that share a beginning leave many."""


class LocalTier:
    """The tier in `directory`, which processes of one host share. Thread-safe.

    Raises ConfigError for a directory that cannot be used, or that is not in memory unless `on_disk` allows it.
    """

    def __init__(
        self,
        directory: str,
        limit_bytes: int,
        *,
        first_layers: int = DEFAULT_FIRST_LAYERS,
        on_disk: bool = False,
    ) -> None:
        if first_layers < 1:
            raise ConfigError(f"first_layers must be at least 1, got {first_layers}")
        prepare_directory(directory, on_disk=on_disk)
        self._extents = Extents(directory, limit_bytes, rank_of=rank_of)
        self._first_layers = first_layers
        self._lock = Lock()
        self.stats = TierStats()

    # -- looking up -------------------------------------------------------------------------------

    def look_up(self, namespace: bytes, parts: Sequence[TierPart]) -> Holding:
        """What is held of `parts`, open. False when that is nothing."""
        held = []
        try:
            for part in parts:
                held.append(self._held(namespace, part))
        except BaseException:
            Holding(namespace, tuple(held), self._discard).close()
            raise
        holding = Holding(namespace, tuple(held), self._discard)
        with self._lock:
            self.stats.hits += bool(holding)
            self.stats.misses += not holding
        return holding

    def holds(self, namespace: bytes, parts: Sequence[TierPart]) -> bool:
        """Whether a look-up would find anything of `parts`, which begin where their chain does. Where it would not,
        this counts as one."""
        for part in parts:
            found = self._best(self._wanted(namespace, part)[0], part, rest=False, num_layers=None)
            if found is not None:
                found[0].close()
                return True
        with self._lock:
            self.stats.misses += 1
        return False

    def _held(self, namespace: bytes, part: TierPart) -> HeldPart:
        first, rest = self._covering(namespace, part, rest=False), self._covering(namespace, part, rest=True)
        first_chunks, first_layers = _reach(first)
        rest_chunks, rest_layers = _reach(rest)
        versions = _versions_of(first)
        first_chunks = min(first_chunks, sum(chunks for chunks, _ in versions))
        if first_layers + rest_layers != len(part.shape.layers):
            rest_chunks = 0
        # A chunk's layers are of one version: the rest counts as far as it is of the versions of the first layers.
        rest_chunks = min(first_chunks, rest_chunks, _common_chunks(versions, _versions_of(rest)))
        steps = [(part.shape.layers[-1] + 1, rest_chunks)] if rest_chunks else []
        if first_chunks > rest_chunks:
            steps.append((part.shape.layers[first_layers - 1] + 1, first_chunks))
        for extent in rest:
            if (
                extent.at >= rest_chunks
                and extent.at < first_chunks
                and first_layers + rest_layers == len(part.shape.layers)
            ):
                self._discard(extent.file)  # of another version than the first layers
        used = [extent for extent in first if extent.at < first_chunks]
        used += [extent for extent in rest if extent.at < rest_chunks]
        for extent in (*first, *rest):
            if extent not in used:
                extent.file.close()
        return HeldPart(part.group, part.shard, tuple(used), tuple(steps), versions)

    def _covering(self, namespace: bytes, part: TierPart, *, rest: bool) -> list[HeldExtent]:
        """The extents that cover the part from its first chunk on without a gap, alike in their layers."""
        covering: list[HeldExtent] = []
        num_layers: int | None = None
        for wanted in self._wanted(namespace, part):
            found = self._best(wanted, part, rest=rest, num_layers=num_layers)
            if found is None:
                break
            file, count = found
            num_layers = file.name.num_layers
            layers = part.shape.layers
            mine = layers[len(layers) - num_layers :] if rest else layers[:num_layers]
            covering.append(HeldExtent(file, wanted.at, count, mine, wanted.keys[:count]))
            if count < len(wanted.keys):
                break
        return covering

    def _wanted(self, namespace: bytes, part: TierPart) -> list[WantedExtent]:
        return extents_of(namespace, part, lambda name: self._extents.directory("tier", name))

    def _best(
        self, wanted: WantedExtent, part: TierPart, *, rest: bool, num_layers: int | None
    ) -> tuple[TierFile, int] | None:
        """The file that covers most of `wanted`, open, and how many of its chunks."""
        best: tuple[TierFile, int] | None = None
        for certain, name, found in self._candidates(wanted, part, rest=rest, num_layers=num_layers):
            if best is not None and min(found.num_chunks, len(wanted.keys)) <= best[1]:
                continue
            path = f"{wanted.directory}/{name}"
            descriptor = self._extents.open(Extent(path, 0, found.size_bytes), touch=False)
            if descriptor is None:
                continue
            file = TierFile(path, found, descriptor)
            count = found.num_chunks if certain else self._shared_chunks(file, wanted.keys)
            if count <= (best[1] if best else 0):
                file.close()
                continue
            if best is not None:
                best[0].close()
            best = file, count
        if best is not None:
            best[0].touch(self._extents)
        return best

    def _candidates(
        self, wanted: WantedExtent, part: TierPart, *, rest: bool, num_layers: int | None
    ) -> list[tuple[bool, str, TierName]]:
        """(whether all its chunks are wanted, file name, what that says): those, and the longest, first."""
        candidates = []
        for name in _names_in(wanted.directory):
            found = TierName.decode(name)
            if found is None or found.rest is not rest or num_layers not in (None, found.num_layers):
                continue
            if not 0 < found.num_layers <= len(part.shape.layers):
                continue
            fits = found.num_chunks <= len(wanted.keys)
            certain = fits and wanted.keys[found.num_chunks - 1][:_LEAF_BYTES] == found.leaf
            candidates.append((certain, name, found))
        candidates.sort(key=lambda candidate: (candidate[0], candidate[2].num_chunks), reverse=True)
        return candidates[: sum(candidate[0] for candidate in candidates) + MAX_LOOKED_INTO]

    def _shared_chunks(self, file: TierFile, keys: KeyChain) -> int:
        """How many chunks of a file are the first of `keys`."""
        try:
            held = file.keys()
        except ObjectCacheError:
            self._discard(file)
            return 0
        most = min(len(held), len(keys))
        return next((i for i in range(most) if held[i] != keys[i]), most)

    # -- keeping ----------------------------------------------------------------------------------

    def keep(
        self,
        namespace: bytes,
        parts: Sequence[TierPart],
        versions: Sequence[Versions],
        geometry: DeliveryGeometry,
        memory: memoryview,
        holding: Holding | None,
    ) -> None:
        """Keep what was delivered into `memory`, verified: first layers, and the rest where they were held before.

        `versions` are each part's. Nothing fails: what cannot be kept is not there.
        """
        for rest in (False, True):
            for index, part in enumerate(parts):
                held = holding.parts[index] if holding else HeldPart(part.group, part.shard)
                for wanted in self._wanted(namespace, part):
                    if wanted.parent and (not rest or any(extent.at == wanted.at for extent in held.extents)):
                        self._keep(namespace, index, part, wanted, versions[index], geometry, memory, held, rest=rest)

    def _keep(
        self,
        namespace: bytes,
        index: int,
        part: TierPart,
        wanted: WantedExtent,
        versions: Versions,
        geometry: DeliveryGeometry,
        memory: memoryview,
        held: HeldPart,
        *,
        rest: bool,
    ) -> None:
        split = min(self._first_layers, len(part.shape.layers))
        layers = part.shape.layers[split:] if rest else part.shape.layers[:split]
        stop = wanted.at + len(wanted.keys)
        mine = cut_versions(versions, wanted.at, stop)
        covered = max((e.count for e in held.extents if e.at == wanted.at and e.layers == layers), default=0)
        if not layers or covered == len(wanted.keys) or not mine or len(mine) > MAX_VERSIONS:
            return
        header = extent_header(namespace, part, wanted, layers, mine)
        tag = mine[0][1] if len(mine) == 1 else MIXED
        leaf = wanted.keys[-1][:_LEAF_BYTES]
        name = TierName(rest, len(layers), len(wanted.keys), leaf, tag, header.total_bytes)
        path = f"{wanted.directory}/{name.encode()}"
        if os.path.exists(path):
            return
        writing = self._extents.begin(header.total_bytes, rank_of(name.encode()))
        if writing is None or not write_extent(self._extents, writing, header, index, geometry, memory, wanted):
            with self._lock:
                self.stats.refused_bytes += header.total_bytes
            return
        self._extents.place(writing, path)
        with self._lock:
            self.stats.kept_bytes += header.total_bytes
        for extent in held.extents:
            if (extent.at, extent.layers) == (wanted.at, layers) and extent.count == extent.file.name.num_chunks:
                self._discard(extent.file)  # it is the beginning of the new one

    # -- the rest ---------------------------------------------------------------------------------

    def _discard(self, file: TierFile) -> None:
        """Take it out of the tier; whoever has it open goes on."""
        with suppress(OSError):
            self._extents.remove(Extent(file.path, 0, file.name.size_bytes))

    def count_read(self, size_bytes: int) -> None:
        """So many bytes are served from the tier."""
        with self._lock:
            self.stats.read_bytes += size_bytes

    def usage(self) -> StoreUsage:
        """Of all processes together."""
        return self._extents.usage()

    def close(self) -> None:
        self._extents.close()


def _reach(extents: Sequence[HeldExtent]) -> tuple[int, int]:
    """How many chunks, of how many layers."""
    return (extents[-1].at + extents[-1].count, extents[-1].file.name.num_layers) if extents else (0, 0)


def _versions_of(extents: Sequence[HeldExtent]) -> Versions:
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


def _common_chunks(one: Versions, other: Versions) -> int:
    """How many chunks from the start on are of one version in both, each without neighbours of one segment."""
    common = 0
    for (chunks, tag), (other_chunks, other_tag) in zip(one, other, strict=False):
        if tag != other_tag:
            break
        common += min(chunks, other_chunks)
        if chunks != other_chunks:
            break
    return common


def _names_in(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []
