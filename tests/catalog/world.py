"""Chains, segments and catalogs for tests: keys without data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import pairwise

from objectcache.catalog import Catalog, CatalogView, Run
from objectcache.catalog.environment import CHUNKS, REMOVED
from objectcache.catalog.records import split_entry
from objectcache.catalog.view import RecordCache
from objectcache.keys import KeyChain, Namespace
from objectcache.layout import KVGroup, KVLayout, KVShard, MatchRule
from objectcache.logrecord import CommitEntry, LogRecord, Replacement, Seen
from objectcache.names import segment_name
from objectcache.segment import SegmentHeader

DIGEST = b"d" * 16


def simple_layout(shards: int = 1, layers: int = 2, chunk_tokens: int = 16) -> KVLayout:
    """Full attention only."""
    held = tuple(range(layers))
    parts = tuple(KVShard(index, held, (64,) * layers, (index,)) for index in range(shards))
    return KVLayout((KVGroup("full", chunk_tokens, parts),))


def hybrid_layout() -> KVLayout:
    """Full attention in chunks of 16 on two shards, a window of 40 tokens, a state every 32 tokens."""
    full = (KVShard(0, (0, 1), (64, 64), (0,)), KVShard(1, (0, 1), (64, 64), (1,)))
    return KVLayout(
        (
            KVGroup("full", 16, full),
            KVGroup("window", 16, (KVShard(0, (2,), (32,)),), MatchRule.WINDOW, 40),
            KVGroup("state", 32, (KVShard(0, (3,), (512,)),), MatchRule.STATE),
        )
    )


def namespace_of(layout: KVLayout, salt_sha256: str = "") -> Namespace:
    return Namespace(model="sha256:model", layout=layout, kv_dtype="bfloat16", salt_sha256=salt_sha256)


def chain_of(namespace: Namespace, text: str) -> KeyChain:
    """One key a character: texts with a common prefix have a common chain, as prompts do."""
    key, keys = namespace.digest, []
    for character in text:
        key = sha256(key + character.encode()).digest()
        keys.append(key)
    return KeyChain(b"".join(keys))


class Segments:
    """Makes commit entries of one writer, named in sequence."""

    def __init__(self, namespace: Namespace, writer: str = "w") -> None:
        self.namespace = namespace
        self.writer = writer
        self._sequence = 0

    def entry(
        self, chain: KeyChain, first: int, stop: int, *, group: int = 0, shard: int = 0, name: str | None = None
    ) -> CommitEntry:
        """Chunks [first, stop) of `chain`, which is in the layout's key chunks; the range is in the group's."""
        layout = self.namespace.layout
        stride = layout.group(group).chunk_tokens // layout.key_tokens
        self._sequence += 1
        header = SegmentHeader.for_layout(
            layout,
            name=name or segment_name(self.writer, self._sequence),
            namespace=self.namespace.digest,
            group=group,
            shard=shard,
            chain=chain.coarsen(stride),
            first=first,
            stop=stop,
        )
        return CommitEntry(header, (DIGEST,) * len(header.layers))

    def entries(self, chain: KeyChain, cuts: Sequence[int], *, group: int = 0, shard: int = 0) -> list[CommitEntry]:
        """Consecutive segments between `cuts`."""
        return [self.entry(chain, first, stop, group=group, shard=shard) for first, stop in pairwise(cuts)]


class Log:
    """Records of one writer, applied to a catalog without a store."""

    def __init__(self, catalog: Catalog, writer: str = "w") -> None:
        self._catalog = catalog
        self._writer = writer
        self._sequence = 0

    def commit(self, *entries: CommitEntry, now_s: float = 1.0) -> None:
        self.step(commits=entries, now_s=now_s)

    def delete(self, *names: str, seen: Seen = ()) -> None:
        self.step(deletes=names, seen=seen)

    def step(
        self,
        *,
        commits: tuple[CommitEntry, ...] = (),
        deletes: tuple[str, ...] = (),
        replaces: tuple[Replacement, ...] = (),
        seen: Seen = (),
        now_s: float = 1.0,
    ) -> None:
        self._sequence += 1
        record = LogRecord(self._writer, self._sequence, 0.0, commits, deletes, replaces, seen)
        assert self._catalog.apply([record], now_s=now_s) == 1


def places(runs: Sequence[Run]) -> list[tuple[str, int, int]]:
    """Runs as (end of the segment's name, first, stop)."""
    return [(run.segment.name[-3:], run.first, run.stop) for run in runs]


def content(catalog: Catalog) -> dict[str, object]:
    """All that a catalog knows, without its own ids and what waits to be swept."""
    segments = {record.name: replace(record, id=0) for record in catalog.segments()}
    stats = catalog.stats()
    assert stats.segments == len(segments)
    assert stats.total_bytes == sum(segment.total_bytes for segment in segments.values())
    with catalog._environment.read() as transaction:
        waiting = list(transaction.cursor(catalog._environment.db(REMOVED)))
        entries = {
            (part, key, record.name, index)
            for part, entry in transaction.cursor(catalog._environment.db(CHUNKS))
            for key, id, index in [split_entry(entry)]
            if (record := CatalogView(catalog._environment, transaction, RecordCache(1)).segment(id))
        }
    assert len(entries) == stats.chunks
    return {"segments": segments, "chunks": entries, "positions": catalog.positions(), "waiting": waiting}
