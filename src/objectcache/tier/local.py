"""The tier itself: looking up what is held, and keeping what was delivered.

Files on a file system in memory, each a segment of some layers of up to `extent_chunks` chunks at a like depth of every
chain. A prefix that is new leaves its first layers; when it comes again, and those are still there, the rest of it is
kept as well. The rest goes before any first layers do, and never displaces them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from threading import Lock

from objectcache.descriptor import HeldChunks, Versions
from objectcache.errors import ConfigError, IntegrityError, ObjectCacheError
from objectcache.keys import KeyChain
from objectcache.layout import DeliveryGeometry
from objectcache.stores.base import StoreUsage
from objectcache.stores.read_cache_extents import Extent, Extents
from objectcache.tier.covering import common_chunks, reach, versions_of
from objectcache.tier.directory import prepare_directory
from objectcache.tier.files import TierFile
from objectcache.tier.holding import HeldExtent, HeldPart, Holding, nothing_held
from objectcache.tier.keeping import extent_header, write_extent
from objectcache.tier.mappings import Mappings
from objectcache.tier.names import MAX_VERSIONS, MIXED, TierName, cut_versions, rank_of
from objectcache.tier.parts import TierPart, TierStats, WantedExtent, extents_of

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
        self.mappings = Mappings(limit_bytes)
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

    def _held(self, namespace: bytes, part: TierPart) -> HeldPart:
        asked = self._wanted(namespace, part)
        first = self._covering(asked, part, rest=False)
        rest = self._covering(asked, part, rest=True) if first else []
        first_chunks, first_layers = reach(first)
        rest_chunks, rest_layers = reach(rest)
        versions = versions_of(first)
        first_chunks = min(first_chunks, sum(chunks for chunks, _ in versions))
        if first_layers + rest_layers != len(part.shape.layers):
            rest_chunks = 0
        # A chunk's layers are of one version: the rest counts as far as it is of the versions of the first layers.
        rest_chunks = min(first_chunks, rest_chunks, common_chunks(versions, versions_of(rest)))
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
        kept = set(map(id, used))
        for extent in (*first, *rest):
            if id(extent) not in kept:
                extent.file.close()
        return HeldPart(HeldChunks(part.group, part.shard, part.first, tuple(steps), versions), tuple(used))

    def _covering(self, asked: Sequence[WantedExtent], part: TierPart, *, rest: bool) -> list[HeldExtent]:
        """The extents that cover the part from its first chunk on without a gap, alike in their layers."""
        covering: list[HeldExtent] = []
        num_layers: int | None = None
        for wanted in asked:
            found = self._best(wanted, part, rest=rest, num_layers=num_layers)
            if found is None:
                break
            file, count = found
            num_layers = file.name.num_layers
            layers = part.shape.layers
            mine = layers[len(layers) - num_layers :] if rest else layers[:num_layers]
            whole = count == len(wanted.keys)
            covering.append(HeldExtent(file, wanted.at, count, mine, wanted.keys if whole else wanted.keys[:count]))
            if not whole:
                break
        return covering

    def _wanted(self, namespace: bytes, part: TierPart) -> list[WantedExtent]:
        return extents_of(namespace, part, lambda name: self._extents.directory("tier", name))

    def _best(
        self, wanted: WantedExtent, part: TierPart, *, rest: bool, num_layers: int | None
    ) -> tuple[TierFile, int] | None:
        """The file that covers most of `wanted`, open, and how many of its chunks."""
        mapped = self.mappings.find(wanted.directory, wanted.keys, rest=rest, num_layers=num_layers)
        if mapped is not None:
            if mapped.name.num_layers <= len(part.shape.layers):
                mapped.touch(self._extents)
                return mapped, len(wanted.keys)
            mapped.close()
        best: tuple[TierFile, int] | None = None
        for certain, name, found in self._candidates(wanted, part, rest=rest, num_layers=num_layers):
            if best is not None and min(found.num_chunks, len(wanted.keys)) <= best[1]:
                continue
            file = self._open(f"{wanted.directory}/{name}", found)
            if file is None:
                continue
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

    def _open(self, path: str, name: TierName) -> TierFile | None:
        """None for one that is not there any more."""
        mapped = self.mappings.at(path)
        if mapped is not None:
            return mapped
        descriptor = self._extents.open(Extent(path, 0, name.size_bytes), touch=False)
        return None if descriptor is None else TierFile(path, name, descriptor)

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
        bring: Callable[[int, int, int, int], None] = lambda part, layer, first, stop: None,
    ) -> bool:
        """Keep what was delivered into `memory`, verified: first layers, and the rest where they were held before.

        `versions` are each part's; `bring(index of the part, layer, first, stop)` is called before those chunks are
        read there. Nothing fails: what cannot be kept is not there. Whether anything was kept.
        """
        kept = False
        for rest in (False, True):
            for index, part in enumerate(parts):
                held = holding.parts[index] if holding else nothing_held(part.group, part.shard, part.first)
                for wanted in self._wanted(namespace, part):
                    if wanted.parent and (not rest or any(extent.at == wanted.at for extent in held.extents)):
                        bound = partial(bring, index)
                        kept |= self._keep(
                            namespace, index, part, wanted, versions[index], geometry, memory, held, bound, rest=rest
                        )
        return kept

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
        bring: Callable[[int, int, int], None],
        *,
        rest: bool,
    ) -> bool:
        split = min(self._first_layers, len(part.shape.layers))
        layers = part.shape.layers[split:] if rest else part.shape.layers[:split]
        stop = wanted.at + len(wanted.keys)
        mine = cut_versions(versions, wanted.at, stop)
        covered = max((e.count for e in held.extents if e.at == wanted.at and e.layers == layers), default=0)
        if not layers or covered == len(wanted.keys) or not mine or len(mine) > MAX_VERSIONS:
            return False
        header = extent_header(namespace, part, wanted, layers, mine)
        tag = mine[0][1] if len(mine) == 1 else MIXED
        leaf = wanted.keys[-1][:_LEAF_BYTES]
        name = TierName(rest, len(layers), len(wanted.keys), leaf, tag, header.total_bytes)
        path = f"{wanted.directory}/{name.encode()}"
        if os.path.exists(path):
            return False
        for layer in layers:
            bring(layer, wanted.at, stop)
        writing = self._extents.begin(header.total_bytes, rank_of(name.encode()))
        if writing is None or not write_extent(self._extents, writing, header, index, geometry, memory, wanted):
            with self._lock:
                self.stats.refused_bytes += header.total_bytes
            return False
        self._extents.place(writing, path)
        with self._lock:
            self.stats.kept_bytes += header.total_bytes
        for extent in held.extents:
            if (extent.at, extent.layers) == (wanted.at, layers) and extent.count == extent.file.name.num_chunks:
                self._discard(extent.file)  # it is the beginning of the new one
        return True

    # -- mapping ----------------------------------------------------------------------------------

    def map(self, namespace: bytes, parts: Sequence[TierPart]) -> None:
        """Map what is held of `parts`, where anything is to be mapped: first layers first. Nothing fails.

        For one thread at a time.
        """
        if not self.mappings.wanted:
            return
        self.mappings.sweep()  # what is kept now may have made others go
        for part in parts:
            for extent in self._held(namespace, part).extents:
                try:
                    if not extent.file.mapped_bytes and self.mappings.wanted:
                        self.mappings.map(extent.file)
                except IntegrityError:
                    self._discard(extent.file)
                finally:
                    extent.file.close()

    # -- the rest ---------------------------------------------------------------------------------

    def _discard(self, file: TierFile) -> None:
        """Take it out of the tier; whoever has it open goes on."""
        self.mappings.drop(file)
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
        self.mappings.close()
        self._extents.close()


def _names_in(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []
