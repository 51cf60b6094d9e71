"""What is stored: per namespace, and per segment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from objectcache.cache.explain.results import Listing, NamespaceInfo, SegmentInfo
from objectcache.cache.explain.stored import Stored
from objectcache.cache.explain.words import namespace_info, short
from objectcache.catalog import Catalog, SegmentRecord
from objectcache.catalog.scanning import last_used_s
from objectcache.errors import NamespaceMismatchError
from objectcache.keys import Namespace
from objectcache.layout import MatchRule
from objectcache.segment import SegmentHeader

UNREADABLE = "its description is gone or damaged: nothing of it matches"


@dataclass
class _Sum:
    """What is stored of one namespace."""

    segments: int = 0
    chunks: int = 0
    total_bytes: int = 0
    last_used_s: float | None = None
    tokens_of_part: Counter[tuple[int, int]] = field(default_factory=Counter)
    segments_of_part: Counter[tuple[int, int]] = field(default_factory=Counter)
    by_chunks: Counter[int] = field(default_factory=Counter)

    def add(self, record: SegmentRecord, used_s: float | None) -> None:
        self.segments += 1
        self.chunks += record.num_chunks
        self.total_bytes += record.total_bytes
        self.tokens_of_part[record.group, record.shard] += record.num_chunks * record.chunk_tokens
        self.segments_of_part[record.group, record.shard] += 1
        self.by_chunks[record.num_chunks] += 1
        if used_s is not None:
            self.last_used_s = max(used_s, self.last_used_s or used_s)

    def _growing(self, namespace: Namespace | None) -> Mapping[tuple[int, int], int]:
        """Tokens by part. A recurrent state stands for one boundary, not for the tokens of a chunk."""
        states = {
            index
            for index, group in enumerate(namespace.layout.groups if namespace else ())
            if group.rule is MatchRule.STATE
        }
        return {part: tokens for part, tokens in self.tokens_of_part.items() if part[0] not in states}

    def tokens(self, namespace: Namespace | None) -> int:
        return max((self._growing(namespace) or self.tokens_of_part).values(), default=0)

    def ranges(self, namespace: Namespace | None, tokens: int) -> float:
        """How many segments so many tokens are in, on average, in the part where they are in most. At least one."""
        growing = self._growing(namespace)
        return max((max(1.0, self.segments_of_part[part] * tokens / held) for part, held in growing.items()), default=0)

    def of(self, digest: bytes, namespace: Namespace | None) -> NamespaceInfo:
        info = namespace_info(namespace) if namespace else NamespaceInfo(short(digest), problem=UNREADABLE)
        return replace(
            info,
            segments=self.segments,
            chunks=self.chunks,
            tokens=self.tokens(namespace),
            total_bytes=self.total_bytes,
            last_used_s=self.last_used_s,
            median_chunks=median(self.by_chunks),
            ranges_4k=self.ranges(namespace, 4096),
        )


def median(counts: Mapping[int, int]) -> float:
    """Of numbers, given how often each occurs; 0.0 of none."""
    total = sum(counts.values())
    wanted = ((total - 1) // 2, total // 2)
    found: list[int] = []
    before = 0
    for number in sorted(counts):
        found += [number for place in wanted if before <= place < before + counts[number]]
        before += counts[number]
    return sum(found) / len(found) if found else 0.0


def used_by_name(catalogs: Iterable[Catalog]) -> dict[str, float]:
    """When each segment was last used (Unix time), by whichever of the processes that these catalogs belong to."""
    used: dict[str, float] = {}
    for catalog in catalogs:
        times_s = last_used_s(catalog)
        for record in catalog.segments():
            time_s = times_s.get(record.id)
            if time_s is not None:
                used[record.name] = max(time_s, used.get(record.name, time_s))
    return used


def group_name(namespace: Namespace | None, group: int) -> str:
    """The group's name in the layout, or its number where that is not known."""
    if namespace is None or group >= len(namespace.layout.groups):
        return str(group)
    return namespace.layout.group(group).name


def segment_info(
    segment: SegmentRecord | SegmentHeader, namespace: Namespace | None, used_s: float | None
) -> SegmentInfo:
    stop = segment.depth + segment.num_chunks
    return SegmentInfo(
        name=segment.name,
        namespace=short(segment.namespace),
        group=group_name(namespace, segment.group),
        shard=segment.shard,
        first_chunk=segment.depth,
        stop_chunk=stop,
        first_token=segment.depth * segment.chunk_tokens,
        stop_token=stop * segment.chunk_tokens,
        total_bytes=segment.total_bytes,
        parent=short(segment.parent),
        leaf=short(segment.leaf),
        last_used_s=used_s,
    )


def list_stored(stored: Stored, used: Mapping[str, float], namespace: str, with_segments: bool, limit: int) -> Listing:
    """Of the namespaces whose digest begins with `namespace`. At most `limit` segments are listed (0: all).

    Raises NamespaceMismatchError when there is none.
    """
    known = {digest: found for digest, found in stored.namespaces().items() if digest.hex().startswith(namespace)}
    if namespace and not known:
        raise NamespaceMismatchError(f"no namespace here begins with {namespace}: `objectcache ls` shows all")
    sums = {digest: _Sum() for digest in known}
    segments: list[SegmentInfo] = []
    left_out = 0
    for record in stored.catalog.segments():
        if record.namespace not in sums:
            continue
        used_s = used.get(record.name)
        sums[record.namespace].add(record, used_s)
        if with_segments and limit and len(segments) >= limit:
            left_out += 1
        elif with_segments:
            segments.append(segment_info(record, known[record.namespace], used_s))
    infos = [sums[digest].of(digest, found) for digest, found in known.items()]
    infos.sort(key=lambda info: (-info.total_bytes, info.digest))
    return Listing(
        namespaces=tuple(infos),
        segments=tuple(segments),
        segments_left_out=left_out,
        total_segments=sum(info.segments for info in infos),
        total_chunks=sum(info.chunks for info in infos),
        total_bytes=sum(info.total_bytes for info in infos),
        store_used_bytes=stored.store.usage().used_bytes,
        median_chunks=median(sum((held.by_chunks for held in sums.values()), Counter())),
    )
