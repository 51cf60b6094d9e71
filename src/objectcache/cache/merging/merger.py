"""Merges over one core: what is due, and each merge's begin and end. Who copies in between is the caller's affair."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from objectcache.cache.core import CacheCore
from objectcache.cache.merging.policy import MergeLimits, MergeRun, covers, plan_merges
from objectcache.cache.room import Reservation
from objectcache.catalog import SegmentRecord
from objectcache.catalog.scanning import last_used_s
from objectcache.commitlog import CommitEntry
from objectcache.errors import (
    IntegrityError,
    LayoutError,
    NamespaceMismatchError,
    ObjectCacheError,
    SegmentGoneError,
    StoreFullError,
)
from objectcache.joining import Joined, JoinOrder, JoinSource, JoinStoppedError, join
from objectcache.keys import KEY_BYTES, KeyChain
from objectcache.layout import MatchRule
from objectcache.segment import SegmentHeader

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Findings:
    """`runs` are to be merged, those used last first; of `duplicates` other segments hold all chunks."""

    runs: tuple[MergeRun, ...]
    duplicates: tuple[SegmentRecord, ...]

    @property
    def total_bytes(self) -> int:
        """What merging all of them reads, and writes."""
        return sum(segment.total_bytes for run in self.runs for segment in run)


@dataclass(frozen=True, slots=True)
class Begun:
    """A merge for which there is room. It ends with `Merger.complete`, or `Merger.give_up`."""

    run: MergeRun
    order: JoinOrder
    size_bytes: int
    room: Reservation


class Merger:
    """One thread at a time. Several processes may merge over one store: the work of one that is late is thrown away."""

    def __init__(self, core: CacheCore, limits: MergeLimits | None = None) -> None:
        self._core = core
        self._limits = limits or MergeLimits()

    # -- what is due ------------------------------------------------------------------------------

    def find(self) -> Findings:
        """Among the chains that were matched last, in many segments. They are looked at once."""
        met = self._core.fragments.take()
        with self._core.catalog.view() as view:
            found = [view.segment(id) for id in met]
        return self._findings({segment: met[segment.id] for segment in found if segment is not None})

    def find_all(self) -> Findings:
        """In the whole catalog. Takes memory for each small segment."""
        used_s = last_used_s(self._core.catalog)
        return self._findings({segment: used_s.get(segment.id, 0.0) for segment in self._core.catalog.segments()})

    def _findings(self, used_s: Mapping[SegmentRecord, float]) -> Findings:
        groups = {(segment.namespace, segment.group) for segment in used_s}
        mergeable = {group for group in groups if self._is_read_whole(*group)}
        wanted = {
            segment: time_s for segment, time_s in used_s.items() if (segment.namespace, segment.group) in mergeable
        }
        duplicates = tuple(segment for segment in wanted if self._is_duplicate(segment))
        runs = plan_merges(wanted, self._limits, {segment.id for segment in duplicates})
        return Findings(tuple(runs), duplicates)

    def _is_read_whole(self, digest: bytes, group: int) -> bool:
        """Of recurrent states only the last one is ever read, and nothing of a namespace that nobody knows."""
        try:
            return self._core.namespace(digest).layout.group(group).rule is not MatchRule.STATE
        except (NamespaceMismatchError, LayoutError):
            return False

    def _is_duplicate(self, segment: SegmentRecord) -> bool:
        holders = self._core.catalog.find(segment.leaf, segment.group, segment.shard)
        return any(covers(holder, index, segment) for holder, index in holders)

    def drop_duplicates(self, findings: Findings) -> None:
        """Raises StoreError, CatalogError."""
        # What covers them was looked for some time ago.
        still = [segment for segment in findings.duplicates if self._is_duplicate(segment)]
        if still:
            self._core.merges.duplicates += self._core.replacing.drop_duplicates(still)

    # -- one merge --------------------------------------------------------------------------------

    def begin(self, run: MergeRun) -> Begun | None:
        """None when it is not to be made, which is counted. Raises StoreError, CatalogError."""
        counters = self._core.merges
        if not self._core.replacing.are_current(run):
            counters.outrun += 1
            return None
        name = self._core.new_segment_name()
        size_bytes = _joined_bytes(name, run)
        try:
            room = self._core.reserve_spare(size_bytes)
        except StoreFullError:
            counters.skipped_room += 1
            return None
        return Begun(run, JoinOrder(name, tuple(map(_source, run))), size_bytes, room)

    def complete(self, begun: Begun, joined: Joined) -> bool:
        """The upload is whole in the store: make it visible. Whether it was. Raises StoreError, CatalogError."""
        counters = self._core.merges
        with begun.room:
            counters.bytes_rewritten += joined.header.total_bytes
            if not self._core.replacing.replace(CommitEntry(joined.header, joined.row_digests), begun.run):
                counters.outrun += 1
                return False
        counters.merged += 1
        counters.segments += len(begun.run)
        return True

    def give_up(self, begun: Begun, error: ObjectCacheError, suspect: Callable[[str], None] | None = None) -> None:
        """The upload failed. Segments that turned out to be gone are forgotten; `suspect(segment)` is told of damage
        (default: the core is).
        """
        counters = self._core.merges
        with begun.room:
            if isinstance(error, JoinStoppedError):
                return
            log.warning("segments could not be merged: %s", error)
            if isinstance(error, StoreFullError):
                counters.skipped_room += 1
                return
            counters.failed += 1
            if isinstance(error, SegmentGoneError) and error.segment:
                self._core.forget(error.segment)
            elif isinstance(error, IntegrityError) and error.segment:
                (suspect or self._core.suspect)(error.segment)

    def merge(self, run: MergeRun, pace: Callable[[int], None] = lambda read_bytes: None) -> bool:
        """All of it, in this thread; whether the merged segment became visible. `pace` as of `join`.

        Raises StoreError, CatalogError, and what `pace` raised.
        """
        begun = self.begin(run)
        if begun is None:
            return False
        try:
            joined = join(self._core.store, begun.order, pace)
        except ObjectCacheError as error:
            self.give_up(begun, error)
            if isinstance(error, JoinStoppedError):
                raise
            return False
        except BaseException:
            with begun.room:
                raise
        return self.complete(begun, joined)


def _source(segment: SegmentRecord) -> JoinSource:
    return JoinSource(
        name=segment.name,
        num_chunks=segment.num_chunks,
        depth=segment.depth,
        parent=segment.parent,
        leaf=segment.leaf,
        header_bytes=segment.header_bytes,
        total_bytes=segment.total_bytes,
        packed_row_digests=segment.packed_row_digests,
    )


def _joined_bytes(name: str, run: Collection[SegmentRecord]) -> int:
    """How large the merged segment becomes: the same whatever its keys are."""
    first = next(iter(run))
    header = SegmentHeader(
        name=name,
        namespace=first.namespace,
        group=first.group,
        shard=first.shard,
        chunk_tokens=first.chunk_tokens,
        layers=first.layers,
        slice_bytes=first.slice_bytes,
        parent=first.parent,
        depth=first.depth,
        keys=KeyChain(bytes(KEY_BYTES * sum(segment.num_chunks for segment in run))),
    )
    return header.total_bytes
