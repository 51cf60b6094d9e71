"""Which segments become one. Pure.

A run is consecutive segments of one chain and part, each the parent of the next. It is merged when the result is at
least GROWTH times as large as the largest of them: so a chunk is rewritten at most log(max_chunks) times, by base
GROWTH, however it came in. A run does not go on across a branch, where several segments have the same parent: what
several conversations share would be glued to what is one's own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from objectcache.catalog import SegmentRecord

GROWTH = 4
LONGEST_S = 600.0


@dataclass(frozen=True, slots=True)
class MergeLimits:
    """What a merged segment has at most, and `small_layer_bytes`: a segment whose layers have more is left alone, since
    reading it is one good range already. 256 chunks of Llama 3.1 8B are 512 MiB, and their headers."""

    max_chunks: int = 256
    max_bytes: int = 576 << 20
    max_layer_bytes: int = 64 << 20
    small_layer_bytes: int = 4 << 20

    @classmethod
    def at_rate(cls, bytes_s: float) -> MergeLimits:
        """For merging at that rate: no merge takes so long that its upload would be swept as nobody's."""
        return cls(max_bytes=int(min(cls().max_bytes, bytes_s * LONGEST_S)))

    def is_small(self, segment: SegmentRecord) -> bool:
        return (
            segment.num_chunks * GROWTH <= self.max_chunks
            and segment.num_chunks * max(segment.slice_bytes) < self.small_layer_bytes
        )


MergeRun = tuple[SegmentRecord, ...]


def plan_merges(
    used_s: Mapping[SegmentRecord, float], limits: MergeLimits, covered: Collection[int] = ()
) -> list[MergeRun]:
    """Runs to merge among segments, each with when it was last used (on any one clock): those used last come first.

    A segment is in one run at most. Segments whose ids are `covered` (others hold all of their chunks) count as gone.
    """
    segments = [segment for segment in used_s if segment.id not in covered]
    runs = [run for chain in _chains(segments, limits) for run in _cut(chain, limits)]
    return sorted(runs, key=lambda run: (-max(used_s[segment] for segment in run), run[0].id))


def _chains(segments: Iterable[SegmentRecord], limits: MergeLimits) -> Iterator[list[SegmentRecord]]:
    """Small segments that follow each other, as far as nothing branches off between them."""
    following: dict[tuple[object, ...], list[SegmentRecord]] = defaultdict(list)
    held = list(segments)
    for segment in held:
        following[*_kind(segment), segment.parent, segment.depth].append(segment)

    def next_of(segment: SegmentRecord) -> SegmentRecord | None:
        after = following.get((*_kind(segment), segment.leaf, segment.depth + segment.num_chunks), [])
        return after[0] if len(after) == 1 and limits.is_small(after[0]) else None

    small = [segment for segment in held if limits.is_small(segment)]
    continued = {after.id for segment in small if (after := next_of(segment)) is not None}
    for first in small:
        if first.id in continued:
            continue
        chain = [first]
        while (after := next_of(chain[-1])) is not None:
            chain.append(after)
        yield chain


def _kind(segment: SegmentRecord) -> tuple[object, ...]:
    return (
        segment.namespace,
        segment.group,
        segment.shard,
        segment.chunk_tokens,
        segment.layers,
        segment.slice_bytes,
    )


def _cut(chain: list[SegmentRecord], limits: MergeLimits) -> Iterator[MergeRun]:
    """Runs of a chain that are worth it, from its start on, each as long as it may be."""
    at = 0
    while at < len(chain):
        stop = _run_stop(chain, at, limits)
        if stop > at:
            yield tuple(chain[at:stop])
            at = stop
        else:
            at += 1


def _run_stop(chain: list[SegmentRecord], first: int, limits: MergeLimits) -> int:
    """Where the longest run from `first` on ends; `first` itself when there is none."""
    chunks = total_bytes = largest = 0
    stop = first
    layer_chunks = limits.max_layer_bytes // max(chain[first].slice_bytes)
    for at in range(first, len(chain)):
        chunks += chain[at].num_chunks
        total_bytes += chain[at].total_bytes
        largest = max(largest, chain[at].num_chunks)
        if chunks > min(limits.max_chunks, layer_chunks) or total_bytes > limits.max_bytes:
            break
        if chunks >= GROWTH * largest:
            stop = at + 1
    return stop


def covers(holder: SegmentRecord, index: int, segment: SegmentRecord) -> bool:
    """Whether `holder`, whose chunk `index` is the last one of `segment`, holds all of `segment`'s chunks.

    Of two that hold the same, the one with the smaller name is said to cover the other: all processes say the same.
    """
    if holder.id == segment.id or holder.depth + index != segment.depth + segment.num_chunks - 1:
        return False
    if holder.depth > segment.depth or _kind(holder) != _kind(segment):
        return False
    return holder.num_chunks > segment.num_chunks or holder.name < segment.name
