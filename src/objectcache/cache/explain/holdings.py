"""Which chunks of a prompt each part holds, and what follows: the rules of matching once more, chunk by chunk.

`catalog.matching` finds the longest match and no more; here every chunk is looked at, to tell what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from objectcache.cache.base import PartId, group_chain
from objectcache.catalog import CatalogView, SegmentRecord
from objectcache.catalog.records import part_key
from objectcache.keys import KeyChain, Namespace
from objectcache.layout import KVGroup, KVShard, MatchRule


@dataclass(frozen=True)
class Holding:
    """What one part holds of a chain: ascending ranges [first, stop) of the group's chunks."""

    id: PartId
    group: KVGroup
    shard: KVShard
    chain: KeyChain
    stored: tuple[tuple[int, int], ...]

    @property
    def from_start(self) -> bool:
        return self.group.rule is MatchRule.PREFIX

    @property
    def chunk_tokens(self) -> int:
        return self.group.chunk_tokens

    def needed(self, stop: int) -> int:
        """The first chunk that going on after `stop` chunks needs."""
        if self.from_start:
            return 0
        return max(0, stop - (1 if self.group.rule is MatchRule.STATE else self.group.window_chunks))

    def first_missing(self, first: int, stop: int) -> int | None:
        """The first of chunks [first, stop) that is not stored."""
        for begin, end in self.stored:
            if begin > first:
                break
            first = max(first, end)
        return first if first < stop else None

    def holds(self, first: int, stop: int) -> bool:
        return self.first_missing(first, stop) is None

    def last_missing(self, first: int, stop: int) -> int | None:
        """The last of chunks [first, stop) that is not stored."""
        for begin, end in reversed(self.stored):
            if end < stop:
                break
            stop = min(stop, begin)
        return stop - 1 if stop > first else None

    def next_stored(self, chunk: int) -> int | None:
        """The first chunk from `chunk` on that is stored."""
        return next((max(begin, chunk) for begin, end in self.stored if end > chunk), None)


def holdings(view: CatalogView, namespace: Namespace, chain: KeyChain, parts: Sequence[PartId]) -> list[Holding]:
    """What `parts` hold of `chain`, which is at `layout.key_tokens` tokens a key."""
    found = []
    for part in parts:
        keys = group_chain(namespace, chain, part.group)
        group, shard = namespace.layout.group(part.group), namespace.layout.shard(*part)
        found.append(Holding(part, group, shard, keys, tuple(_ranges(view, namespace, keys, part))))
    return found


def _ranges(view: CatalogView, namespace: Namespace, keys: KeyChain, part: PartId) -> Iterator[tuple[int, int]]:
    group, shard = namespace.layout.group(part.group), namespace.layout.shard(*part)
    index = part_key(*part)

    def fits(record: SegmentRecord) -> bool:
        return (
            record.namespace == namespace.digest
            and record.chunk_tokens == group.chunk_tokens
            and record.layers == shard.layers
            and record.slice_bytes == shard.slice_bytes
        )

    at, begin = 0, 0
    while at < len(keys):
        held = view.candidates(index, keys[at], at, fits)
        if held:
            # A key names all before it: where a segment's last key is the chain's too, the chunks between are.
            whole = [
                stop
                for record, within in held
                if (stop := at + record.num_chunks - within) <= len(keys) and keys[stop - 1] == record.leaf
            ]
            at = max(whole, default=at + 1)
            continue
        if at > begin:
            yield begin, at
        at += 1
        begin = at
    if at > begin:
        yield begin, at


def longest_match(held: Sequence[Holding], tokens: int, boundary_tokens: int) -> int:
    """The longest prefix of at most `tokens` that all of `held` allow, each by its rule. In tokens."""
    tokens = tokens // boundary_tokens * boundary_tokens
    while tokens:
        for part in held:
            stop = tokens // part.chunk_tokens
            first = part.needed(stop)
            missing = part.first_missing(first, stop) if part.from_start else part.last_missing(first, stop)
            if missing is not None:
                tokens = missing * part.chunk_tokens // boundary_tokens * boundary_tokens
                break
        else:
            return tokens
    return 0
