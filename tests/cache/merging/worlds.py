"""Caches over one store, whose conversations are merged."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from objectcache.cache.directory import open_beside
from objectcache.cache.local import LocalCache
from objectcache.cache.merging.merger import Begun, Merger
from objectcache.cache.merging.policy import MergeLimits
from objectcache.joining import join
from objectcache.keys import KeyChain, Namespace
from objectcache.names import SEGMENT_PREFIX
from objectcache.stores import MemoryStore, Store
from objectcache.testing.synthetic import flat_layout, new_namespace, prompt, retrieve_and_check, store_parts

LAYOUT = flat_layout(3, 1000)
LIMITS = MergeLimits(max_chunks=64)
TURNS, TURN_CHUNKS = 16, 2


class World:
    """Each cache sees the store through a wrapper of its own, if there is one."""

    def __init__(self, folder: Path, stack: ExitStack, objects: Store | None = None) -> None:
        self.objects = objects or MemoryStore(1 << 30)
        self._folder, self._stack = folder, stack
        self.namespace: Namespace = new_namespace(LAYOUT)

    def open(self, wrap: Callable[[Store], Store] = lambda store: store, *, grace_s: float = 0.0) -> LocalCache:
        """A cache that follows the others only when told to."""
        cache = LocalCache(open_beside(wrap(self.objects), self._folder), buffer_bytes=64 << 20)
        cache.core.following.stop()
        cache.core.replacing.superseded.grace_s = grace_s
        self._stack.enter_context(cache)
        return cache

    def conversation(self, cache: LocalCache, turns: int, seed: int = 0) -> KeyChain:
        """As many segments of TURN_CHUNKS chunks."""
        chain = prompt(self.namespace, turns * TURN_CHUNKS, seed=seed)
        store_parts(cache, self.namespace, chain, cuts=range(TURN_CHUNKS, len(chain), TURN_CHUNKS))
        return chain

    def segments(self) -> set[str]:
        return {info.name for info in self.objects.list(SEGMENT_PREFIX)}

    def matched(self, cache: LocalCache, chain: KeyChain) -> int:
        """How many chunks, all of which were delivered as they should be."""
        match = retrieve_and_check(cache, self.namespace, chain)
        cache.release(match)
        return match.tokens // LAYOUT.key_tokens


def visible(cache: LocalCache) -> set[str]:
    return {name for name, _ in cache.core.catalog.names()}


def merge_all(cache: LocalCache) -> int:
    """How many merges were made, until there is nothing to merge any more."""
    merger, made = Merger(cache.core, LIMITS), 0
    while True:
        findings = merger.find_all()
        merger.drop_duplicates(findings)
        now = sum(merger.merge(run) for run in findings.runs)
        made += now
        if not now:
            return made


def only_run(merger: Merger) -> Begun:
    (run,) = merger.find_all().runs
    begun = merger.begin(run)
    assert begun is not None
    return begun


def join_to_the_end(cache: LocalCache, merger: Merger) -> Begun:
    """A merge whose upload is whole, and not committed."""
    begun = only_run(merger)
    joined = join(cache.core.store, begun.order)
    assert joined.header.total_bytes == begun.size_bytes, "so much room was made"
    return begun
