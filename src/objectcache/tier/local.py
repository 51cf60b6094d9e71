"""The tier itself: looking up what is held, and keeping what was delivered.

Files on a file system in memory, each a segment of some layers of a piece of a prefix (`cutting`), at like depths of
every chain. A prefix that is new leaves its first layers; when it comes again, and those are still there, the rest of
it is kept as well. The rest goes before any first layers do, and never displaces them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from threading import Lock

from objectcache.descriptor import Versions
from objectcache.errors import ConfigError, IntegrityError
from objectcache.layout import DeliveryGeometry
from objectcache.segment import SegmentHeader
from objectcache.stores.base import StoreUsage
from objectcache.stores.read_cache_extents import Extent, Extents
from objectcache.tier.cutting import cut, most_chunks, step_chunks
from objectcache.tier.directory import prepare_directory
from objectcache.tier.files import TierFile
from objectcache.tier.finding import Finder
from objectcache.tier.holding import HeldPart, Holding, nothing_held
from objectcache.tier.keeping import extent_header, write_extent
from objectcache.tier.mappings import Mappings
from objectcache.tier.names import LEAF_BYTES, MAX_VERSIONS, MIXED, TierName, cut_versions, rank_of
from objectcache.tier.parts import TierPart, TierStats, WantedExtent, wanted_extent

DEFAULT_FIRST_LAYERS = 2


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
        self._finder = Finder(self._extents, self.mappings, self._discard)
        self._first_layers = first_layers
        self._lock = Lock()
        self.stats = TierStats()

    # -- looking up -------------------------------------------------------------------------------

    def look_up(self, namespace: bytes, parts: Sequence[TierPart]) -> Holding:
        """What is held of `parts`, open. False when that is nothing."""
        held = []
        try:
            for part in parts:
                held.append(self._finder.held(namespace, part))
        except BaseException:
            Holding(namespace, tuple(held), self._discard).close()
            raise
        holding = Holding(namespace, tuple(held), self._discard)
        with self._lock:
            self.stats.hits += bool(holding)
            self.stats.misses += not holding
        return holding

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
                split = min(self._first_layers, len(part.shape.layers))
                layers = part.shape.layers[split:] if rest else part.shape.layers[:split]
                until = held.chunks if rest else len(part.keys)
                for at, stop in self._pieces(part, layers, versions[index]):
                    if at >= until:
                        break
                    if held.covers(layers, at, stop):
                        continue
                    wanted = wanted_extent(namespace, part, at, stop, self._directory)
                    mine = cut_versions(versions[index], at, stop)
                    if not wanted.parent or not mine or len(mine) > MAX_VERSIONS:
                        continue
                    header = extent_header(namespace, part, wanted, layers, mine)
                    bound = partial(bring, index)
                    kept |= self._keep(header, rest, mine, wanted, index, geometry, memory, held, bound)
        return kept

    def _pieces(self, part: TierPart, layers: tuple[int, ...], versions: Versions) -> Iterable[tuple[int, int]]:
        """Chunks [at, stop) of `part` that are one file of `layers` each."""
        step = step_chunks(part.shape.slice_bytes)
        if not layers or part.first % step:
            return ()
        if not part.grows:
            return cut(len(part.keys), step, step)
        sizes = dict(zip(part.shape.layers, part.shape.slice_bytes, strict=True))
        most = most_chunks(step, sum(sizes[layer] for layer in layers), self._extents.limit_bytes)
        return cut(len(part.keys), step, most, lambda at, stop: len(cut_versions(versions, at, stop)) <= MAX_VERSIONS)

    def _keep(
        self,
        header: SegmentHeader,
        rest: bool,
        versions: Versions,
        wanted: WantedExtent,
        index: int,
        geometry: DeliveryGeometry,
        memory: memoryview,
        held: HeldPart,
        bring: Callable[[int, int, int], None],
    ) -> bool:
        """The file of `header`, which then stands for those that hold parts of it. Whether anything has changed."""
        tag = versions[0][1] if len(versions) == 1 else MIXED
        leaf = wanted.keys[-1][:LEAF_BYTES]
        name = TierName(rest, len(header.layers), len(wanted.keys), leaf, tag, header.total_bytes)
        path = f"{wanted.directory}/{name.encode()}"
        stop = wanted.at + len(wanted.keys)
        new = not os.path.exists(path)
        if new:
            for layer in header.layers:
                bring(layer, wanted.at, stop)
            writing = self._extents.begin(header.total_bytes, rank_of(name.encode()))
            if writing is None or not write_extent(self._extents, writing, header, index, geometry, memory, wanted):
                with self._lock:
                    self.stats.refused_bytes += header.total_bytes
                return False
            self._extents.place(writing, path)
            with self._lock:
                self.stats.kept_bytes += header.total_bytes
        # One that was there and is MIXED may be of other versions than these, which its name does not say.
        superseded = held.within(header.layers, wanted.at, stop) if new or tag != MIXED else []
        for file in superseded:
            self._discard(file)
        return new or bool(superseded)

    # -- mapping ----------------------------------------------------------------------------------

    def map(self, namespace: bytes, parts: Sequence[TierPart]) -> None:
        """Map what is held of `parts`, where anything is to be mapped: first layers first. Nothing fails.

        For one thread at a time.
        """
        if not self.mappings.wanted:
            return
        self.mappings.sweep()  # what is kept now may have made others go
        for part in parts:
            for extent in self._finder.held(namespace, part).extents:
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

    def _directory(self, name: str) -> str:
        return self._extents.directory("tier", name)

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
