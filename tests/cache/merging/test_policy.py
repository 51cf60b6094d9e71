"""What is merged: by examples, and that no chunk is rewritten often, however it came in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from math import log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectcache.cache.merging.fragments import MOST_CHAINS, MOST_SEGMENTS, Fragments
from objectcache.cache.merging.policy import GROWTH, MergeLimits, MergeRun, covers, plan_merges
from objectcache.catalog import Run, SegmentRecord
from objectcache.keys import KeyChain
from objectcache.names import segment_name
from tests.segments import make_header, random_chain

LIMITS = MergeLimits(max_chunks=64)
CHAIN = random_chain(1, 4096)
SIZE = 40


class Segments:
    """Records as a catalog would have them, of chains that may branch."""

    def __init__(self) -> None:
        self._ids = 0

    def make(self, first: int, stop: int, chain: KeyChain = CHAIN, *, slice_bytes: int = SIZE) -> SegmentRecord:
        self._ids += 1
        header = make_header(
            name=segment_name("w", self._ids), depth=first, keys=chain[first:stop], slice_bytes=(slice_bytes,) * 2
        )
        header = replace(header, parent=chain[first - 1] if first else header.namespace)
        return SegmentRecord.of(self._ids, header, [bytes(16)] * 2)

    def chain(self, sizes: Sequence[int], first: int = 0, chain: KeyChain = CHAIN) -> list[SegmentRecord]:
        made = []
        for size in sizes:
            made.append(self.make(first, first + size, chain))
            first += size
        return made


def planned(segments: Sequence[SegmentRecord], limits: MergeLimits = LIMITS) -> list[list[int]]:
    """Sizes in chunks of what is merged, run by run."""
    runs = plan_merges(dict.fromkeys(segments, 0.0), limits)
    return [[segment.num_chunks for segment in run] for run in runs]


def test_a_conversation_of_short_turns_is_one_segment() -> None:
    assert planned(Segments().chain([2] * 10)) == [[2] * 10]


def test_no_more_than_the_limit() -> None:
    assert planned(Segments().chain([4] * 40)) == [[4] * 16, [4] * 16, [4] * 8]
    by_bytes = MergeLimits(max_chunks=64, max_bytes=20_000)
    assert all(len(run) < 16 for run in planned(Segments().chain([4] * 40), by_bytes))
    by_layer = MergeLimits(max_chunks=64, max_layer_bytes=8 * SIZE)
    assert planned(Segments().chain([2] * 8), by_layer) == [[2] * 4] * 2


def test_what_is_large_is_left_alone() -> None:
    assert planned(Segments().chain([17, 1, 1, 1])) == [], "17 is more than a quarter of 64"
    segments = Segments()
    large = [segments.make(at, at + 1, slice_bytes=4 << 20) for at in range(8)]
    assert planned(large) == [], "each is a good range already"


def test_a_large_one_does_not_take_small_ones_with_it_each_time() -> None:
    assert planned(Segments().chain([16, 1])) == []
    assert planned(Segments().chain([16, 1, 1, 1, 1])) == [[1] * 4]
    assert planned(Segments().chain([16, 16, 16, 16])) == [[16] * 4]


def test_a_gap_ends_a_run() -> None:
    segments = Segments()
    assert planned([*segments.chain([2] * 5), *segments.chain([2] * 5, first=11)]) == [[2] * 5, [2] * 5]


def test_a_branch_ends_a_run() -> None:
    segments = Segments()
    other = KeyChain(CHAIN[:8].data + random_chain(2, 40).data)
    shared, one, two = segments.chain([2] * 4), segments.chain([2] * 4, 8), segments.chain([2] * 5, 8, other)
    assert planned([*shared, *one, *two]) == [[2] * 4, [2] * 4, [2] * 5]
    inner = KeyChain(CHAIN[:7].data + random_chain(3, 40).data)
    branching = segments.chain([2] * 4, 7, inner)
    assert planned([*shared, *one, *branching]) == [[2] * 8, [2] * 4], "within a segment it cuts nothing"


def test_parts_are_not_mixed() -> None:
    segments = Segments().chain([2] * 8)
    mixed = [replace(segment, shard=number % 2) for number, segment in enumerate(segments)]
    assert planned(mixed) == []


def test_what_was_used_last_comes_first() -> None:
    segments = Segments()
    cold, hot = segments.chain([2] * 4), segments.chain([2] * 4, chain=random_chain(5, 99))
    used_s = dict.fromkeys(cold, 1.0) | dict.fromkeys(hot, 0.0) | {hot[2]: 2.0}
    assert plan_merges(used_s, LIMITS) == [tuple(hot), tuple(cold)]


def test_duplicates_are_told_by_all_alike() -> None:
    segments = Segments()
    short, same, twin, long = (segments.make(4, stop) for stop in (6, 8, 8, 10))
    assert covers(long, 3, same)
    assert not covers(same, 3, long)
    assert covers(same, 3, twin), "one of two alike"
    assert not covers(twin, 3, same)
    assert covers(same, 1, short)
    assert not covers(same, 3, same)
    assert not covers(segments.make(5, 12), 2, same), "it lacks the first"
    assert not covers(long, 2, same), "another place in the chain: not the same chunk"


# -- whatever comes in --------------------------------------------------------------------------------


def merged(segments: Segments, run: MergeRun) -> SegmentRecord:
    for before, after in pairwise(run):
        assert after.parent == before.leaf
        assert after.depth == before.depth + before.num_chunks
    made = segments.make(run[0].depth, run[-1].depth + run[-1].num_chunks)
    assert made.num_chunks <= LIMITS.max_chunks
    assert made.num_chunks >= GROWTH * max(segment.num_chunks for segment in run)
    return made


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=150), st.integers(1, 20))
def test_a_chunk_is_rewritten_a_few_times_and_ranges_stay_few(turns: list[int], every: int) -> None:
    """Turns come in, and now and then somebody merges."""
    segments = Segments()
    held: list[SegmentRecord] = []
    rewritten: dict[int, int] = {}
    at = 0
    for number, size in enumerate(turns):
        held.append(segments.make(at, at + size))
        rewritten |= dict.fromkeys(range(at, at + size), 0)
        at += size
        if number % every and number < len(turns) - 1:
            continue
        while runs := plan_merges(dict.fromkeys(held, 0.0), LIMITS):
            for run in runs:
                new = merged(segments, run)
                held = sorted([new, *(segment for segment in held if segment not in run)], key=lambda one: one.depth)
                for chunk in range(new.depth, new.depth + new.num_chunks):
                    rewritten[chunk] += 1
    assert max(rewritten.values()) <= log(LIMITS.max_chunks, GROWTH)
    assert sum(segment.num_chunks for segment in held) == at, "nothing is lost, nothing twice"
    # Left are, at worst, a few of each size between merges that have become full.
    assert len(held) <= 2 * GROWTH * log(LIMITS.max_chunks, GROWTH) + 2 * at / (LIMITS.max_chunks / GROWTH)


# -- what was met -------------------------------------------------------------------------------------


def runs_of(segments: Sequence[SegmentRecord]) -> list[Run]:
    return [Run(segment, 0, segment.num_chunks) for segment in segments]


def test_what_is_matched_in_many_segments_is_remembered_once() -> None:
    fragments, segments = Fragments(), Segments()
    chain = segments.chain([2] * 9)
    fragments.met(runs_of(chain[:3]), 1.0)
    assert not fragments, "so few are no matter"
    fragments.met(runs_of(chain[:6]), 2.0)
    fragments.met(runs_of(chain), 3.0)
    assert len(fragments) == 1, "the next turn of the same conversation"
    assert fragments.take() == {segment.id: 3.0 for segment in chain}
    assert not fragments


def test_what_was_met_longest_ago_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("objectcache.cache.merging.fragments.MOST_SEGMENTS", MOST_SEGMENTS // 16)
    fragments, segments = Fragments(), Segments()
    chains = [segments.chain([1] * 4, chain=random_chain(seed, 4)) for seed in range(MOST_CHAINS + 5)]
    for number, chain in enumerate(chains):
        fragments.met(runs_of(chain), float(number))
    met = fragments.take()
    assert len(met) == 4 * MOST_CHAINS
    assert chains[4][0].id not in met
    assert chains[5][0].id in met
    for number, chain in enumerate(chains):
        fragments.met(runs_of(chain * (MOST_SEGMENTS // 16 // 8)), float(number))
    assert len(fragments) == 2, "they are long"
