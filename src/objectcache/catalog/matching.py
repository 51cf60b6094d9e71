"""The longest prefix that every part holds, each by its group's rule. Pure over a view of the catalog."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from objectcache.catalog.records import Run, SegmentRecord
from objectcache.catalog.view import CatalogView
from objectcache.errors import LayoutError
from objectcache.keys import KeyChain, Namespace
from objectcache.layout import KVGroup, KVShard, MatchRule


class MatchedRuns(NamedTuple):
    """Chunks [first, stop) of a part, counted in its group's chunks, and where they are."""

    part: tuple[int, int]
    first: int
    stop: int
    runs: list[Run]


class Matched(NamedTuple):
    tokens: int
    parts: list[MatchedRuns]


@dataclass(frozen=True)
class _Part:
    """One shard of one group, and the chain in the group's chunks."""

    id: tuple[int, int]
    group: KVGroup
    shard: KVShard
    namespace: bytes
    chain: KeyChain

    def accepts(self, record: SegmentRecord) -> bool:
        """Whether a segment is what the namespace says. Others cannot be delivered, whoever wrote them."""
        return (
            record.namespace == self.namespace
            and record.chunk_tokens == self.group.chunk_tokens
            and record.layers == self.shard.layers
            and record.slice_bytes == self.shard.slice_bytes
        )

    @property
    def from_start(self) -> bool:
        return self.group.rule is MatchRule.PREFIX

    def needed(self, stop: int) -> int:
        """The first chunk that going on after `stop` chunks needs."""
        return max(0, stop - (self.group.needed_chunks or stop))


class Viewable(Protocol):
    """A catalog, as `match` needs it."""

    def view(self) -> AbstractContextManager[CatalogView]: ...


def match(catalog: Viewable, namespace: Namespace, chain: KeyChain, parts: Sequence[tuple[int, int]]) -> Matched:
    """The longest prefix of `chain`, in tokens, that all `parts` (group, shard) hold, and where each part's chunks are.

    `chain` is at `layout.key_tokens` tokens a key. Lengths are multiples of `layout.boundary_tokens`. What a part must
    hold is all chunks (full attention), those the window still sees, or the one state at the boundary. Exact, whatever
    gaps and duplicates there are. Without `parts` nothing matches. Raises LayoutError for a part that cannot be.
    """
    wanted = _wanted(namespace, chain, parts)
    boundary = namespace.layout.boundary_tokens
    tokens = len(chain) * namespace.layout.key_tokens // boundary * boundary if wanted else 0
    with catalog.view() as view:
        heads, tokens = _heads(view, [part for part in wanted if part.from_start], tokens, boundary)
        tails, tokens = _tails(view, [part for part in wanted if not part.from_start], tokens, boundary)
    if not tokens:
        return Matched(0, [])
    matched = []
    for part in wanted:
        stop = tokens // part.group.chunk_tokens
        runs = _shortened(heads[part.id], stop) if part.from_start else tails[part.id]
        matched.append(MatchedRuns(part.id, part.needed(stop), stop, runs))
    return Matched(tokens, matched)


def _wanted(namespace: Namespace, chain: KeyChain, parts: Sequence[tuple[int, int]]) -> list[_Part]:
    layout = namespace.layout
    if len(set(parts)) != len(parts):
        raise LayoutError("a part is asked for twice")
    chains: dict[int, KeyChain] = {}
    wanted = []
    for id in parts:
        group, shard = layout.group(id[0]), layout.shard(*id)
        stride = group.chunk_tokens // layout.key_tokens
        if stride not in chains:
            chains[stride] = chain.coarsen(stride)
        wanted.append(_Part(id, group, shard, namespace.digest, chains[stride]))
    return wanted


def _heads(
    view: CatalogView, parts: list[_Part], tokens: int, boundary: int
) -> tuple[dict[tuple[int, int], list[Run]], int]:
    """Runs of the parts that need everything, from the start on, and the farthest boundary up to `tokens` that all of
    them reach."""
    heads: dict[tuple[int, int], list[Run]] = {}
    for part in parts:
        size = part.group.chunk_tokens
        heads[part.id] = view.match_part(part.chain[: tokens // size], *part.id, part.accepts)
        held = sum(run.stop - run.first for run in heads[part.id])
        tokens = min(tokens, held * size // boundary * boundary)
    return heads, tokens


def _tails(
    view: CatalogView, parts: list[_Part], tokens: int, boundary: int
) -> tuple[dict[tuple[int, int], list[Run]], int]:
    """Runs of the parts that need only what is before the boundary, and the farthest boundary up to `tokens` at which
    all have it. A gap rules out every boundary beyond its beginning whose window sees it: on to the one before.
    """
    tails: dict[tuple[int, int], list[Run]] = {}
    while tokens:
        for part in parts:
            stop = tokens // part.group.chunk_tokens
            missing, tails[part.id] = view.cover_back(part.chain, *part.id, part.needed(stop), stop, part.accepts)
            if missing >= 0:
                tokens = missing * part.group.chunk_tokens // boundary * boundary
                break
        else:
            break
    return tails, tokens


def _shortened(runs: list[Run], chunks: int) -> list[Run]:
    """The first `chunks` chunks of `runs`."""
    head = []
    for run in runs:
        take = min(chunks, run.stop - run.first)
        if not take:
            break
        head.append(Run(run.segment, run.first, run.first + take))
        chunks -= take
    return head
