"""Any sequence of stores, branches, merges and evictions: what matches, and every byte, is as a model has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from objectcache.cache.local import LocalCache
from objectcache.cache.merging.merger import Merger
from objectcache.keys import KeyChain
from objectcache.testing.synthetic import prompt, upload_part
from tests.cache.merging.worlds import LAYOUT, LIMITS, World, merge_all, visible

LENGTH = 24
BRANCHES = ((None, 0), (0, 9), (0, 16), (1, 12))
"""Chains: each has the first chunks of another."""

Step = tuple[str, int, int, int]


@st.composite
def steps(draw: st.DrawFn) -> Step:
    what = draw(st.sampled_from(["store"] * 6 + ["merge", "merge one", "merge what was met", "evict", "follow"]))
    first = draw(st.integers(0, LENGTH - 1))
    return what, draw(st.integers(0, len(BRANCHES) - 1)), first, draw(st.integers(1, 5))


class Model:
    """Segments by name: which chunks they hold. `cache` stores and merges, `other` follows and merges too."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.cache, self.other = world.open(), world.open()
        self.chains: list[KeyChain] = []
        for seed, (of, shared) in enumerate(BRANCHES):
            own = prompt(world.namespace, LENGTH, seed=seed).data
            head = b"" if of is None else self.chains[of][:shared].data
            self.chains.append(KeyChain(head + own[len(head) :]))
        self.held: dict[str, set[bytes]] = {}

    def do(self, step: Step) -> None:
        what, chain, first, count = step
        if what == "store":
            self._store(self.chains[chain], first, min(LENGTH, first + count))
        elif what == "merge":
            self._merged(merge_all, self.cache)
        elif what == "merge one":
            self._merged(merge_one, self.other)
        elif what == "merge what was met":
            self.check()
            self._merged(merge_met, self.cache)
        elif what == "evict":
            self._evict(count * 5000)
        elif what == "follow":
            self.other.core.follow()

    def _store(self, chain: KeyChain, first: int, stop: int) -> None:
        wanted = set(chain[first:stop])
        if not all(any(key in keys for keys in self.held.values()) for key in wanted):
            ticket = upload_part(self.cache, self._world.namespace, chain, first=first, stop=stop)
            self.cache.commit([ticket])
            self.held[ticket.header.name] = wanted

    def _merged(self, merge: Callable[[LocalCache], object], cache: LocalCache) -> None:
        self.other.core.follow()
        before = set().union(*self.held.values())
        merge(cache)
        self.cache.core.follow()
        self.other.core.follow()
        self._take_over()
        assert set().union(*self.held.values()) == before, "merging loses and invents nothing"

    def _evict(self, wanted_bytes: int) -> None:
        before = visible(self.cache)
        self.cache.core.evict(wanted_bytes)
        gone = before - visible(self.cache)
        self.held = {name: keys for name, keys in self.held.items() if name not in gone}
        self.other.core.follow()

    def _take_over(self) -> None:
        """What is visible now, each segment's chunks by the chain that its last one is in."""
        self.held = {}
        for segment in self.cache.core.catalog.segments():
            stop = segment.depth + segment.num_chunks
            chain = next(chain for chain in self.chains if chain[stop - 1] == segment.leaf)
            self.held[segment.name] = set(chain[segment.depth : stop])

    def check(self, *, whole: bool = False) -> None:
        """`whole`: every byte, not only how far it matches."""
        stored: set[bytes] = set().union(*self.held.values())
        assert visible(self.cache) == set(self.held)
        for chain in self.chains:
            expected = next((at for at in range(LENGTH) if chain[at] not in stored), LENGTH)
            if whole:
                assert self._world.matched(self.cache, chain) == expected
            else:
                match = self.cache.match(self._world.namespace, chain)
                self.cache.release(match)
                assert match.tokens // LAYOUT.key_tokens == expected


def merge_one(cache: LocalCache) -> None:
    merger = Merger(cache.core, LIMITS)
    for run in merger.find_all().runs[:1]:
        assert merger.merge(run)


def merge_met(cache: LocalCache) -> None:
    merger = Merger(cache.core, LIMITS)
    findings = merger.find()
    merger.drop_duplicates(findings)
    for run in findings.runs:
        assert merger.merge(run)


@settings(max_examples=25, deadline=None)
@given(st.lists(steps(), min_size=1, max_size=25))
def test_matches_and_bytes_are_the_models(done: Sequence[Step]) -> None:
    with TemporaryDirectory() as folder, ExitStack() as stack:
        model = Model(World(Path(folder), stack))
        for chain in model.chains[:2]:
            for first in range(0, LENGTH, 2):
                model.do(("store", model.chains.index(chain), first, 2))
        for step in done:
            model.do(step)
            model.check()
        model.check(whole=True)
        for cache in (model.cache, model.other):
            cache.core.replacing.drop_due()
        assert model._world.segments() == set(model.held), "no object is left, none is missing"
