"""The longest stored prefix: worked examples."""

from __future__ import annotations

from dataclasses import replace

import pytest

from objectcache.catalog import Catalog, match
from objectcache.errors import LayoutError
from objectcache.keys import KeyChain, Namespace, salt_digest
from objectcache.layout import KVGroup, KVLayout
from objectcache.logrecord import CommitEntry
from objectcache.names import segment_name
from tests.catalog.world import Log, Segments, chain_of, hybrid_layout, namespace_of, places, simple_layout

NAMESPACE = namespace_of(simple_layout())
CHAIN = chain_of(NAMESPACE, "abcdefghijklmnop")


def matched(catalog: Catalog, chain: KeyChain, namespace: Namespace = NAMESPACE) -> list[tuple[str, int, int]]:
    """Places of the one part of the simple layout; checked against `match_part`."""
    found = match(catalog, namespace, chain, [(0, 0)])
    if not found.tokens:
        return []
    (part,) = found.parts
    assert (part.part, part.first, part.stop) == ((0, 0), 0, found.tokens // 16)
    assert part.runs == catalog.match_part(chain, 0, 0)
    return places(part.runs)


def test_whole_segments(catalog: Catalog) -> None:
    Log(catalog).commit(*Segments(NAMESPACE).entries(CHAIN, [0, 4, 8, 16]))
    assert matched(catalog, CHAIN) == [("001", 0, 4), ("002", 0, 4), ("003", 0, 8)]
    assert match(catalog, NAMESPACE, CHAIN, [(0, 0)]).tokens == 256


@pytest.mark.parametrize("length", range(1, 17))
def test_a_shorter_chain_matches_to_the_chunk(catalog: Catalog, length: int) -> None:
    Log(catalog).commit(*Segments(NAMESPACE).entries(CHAIN, [0, 4, 16]))
    assert match(catalog, NAMESPACE, CHAIN[:length], [(0, 0)]).tokens == 16 * length


@pytest.mark.parametrize("length", range(16))
def test_a_branch_inside_a_segment_matches_to_the_chunk(catalog: Catalog, length: int) -> None:
    Log(catalog).commit(*Segments(NAMESPACE).entries(CHAIN, [0, 16]))
    other = chain_of(NAMESPACE, "abcdefghijklmnop"[:length] + "?" * (16 - length))
    assert matched(catalog, other) == ([("001", 0, length)] if length else [])


def test_a_branch_goes_on_in_its_own_segment(catalog: Catalog) -> None:
    segments = Segments(NAMESPACE)
    other = chain_of(NAMESPACE, "abcdeFGH")
    Log(catalog).commit(segments.entry(CHAIN, 0, 16), segments.entry(other, 5, 8))
    assert matched(catalog, other) == [("001", 0, 5), ("002", 0, 3)]
    assert matched(catalog, CHAIN) == [("001", 0, 16)]


def test_a_missing_middle_ends_the_match(catalog: Catalog) -> None:
    first, middle, last = Segments(NAMESPACE).entries(CHAIN, [0, 4, 8, 16])
    Log(catalog).commit(first, last)
    assert matched(catalog, CHAIN) == [("001", 0, 4)]
    Log(catalog, "other").commit(middle)
    assert len(matched(catalog, CHAIN)) == 3


def test_a_missing_start_is_no_match(catalog: Catalog) -> None:
    Log(catalog).commit(*Segments(NAMESPACE).entries(CHAIN, [0, 4, 8])[1:])
    assert matched(catalog, CHAIN) == []


def test_of_duplicates_the_one_that_reaches_farthest_is_taken(catalog: Catalog) -> None:
    segments = Segments(NAMESPACE)
    ranges = [(0, 2), (0, 6), (0, 4), (3, 7), (5, 12), (6, 9), (12, 13)]
    Log(catalog).commit(*(segments.entry(CHAIN, first, stop) for first, stop in ranges))
    assert matched(catalog, CHAIN) == [("002", 0, 6), ("005", 1, 7), ("007", 0, 1)]


def test_another_salt_matches_nothing(catalog: Catalog) -> None:
    Log(catalog).commit(*Segments(NAMESPACE).entries(CHAIN, [0, 16]))
    salted = namespace_of(simple_layout(), salt_digest("tenant"))
    assert matched(catalog, chain_of(salted, "abcdefghijklmnop"), salted) == []
    # Nor do stolen keys help.
    assert match(catalog, salted, CHAIN, [(0, 0)]).tokens == 0


def test_a_segment_that_is_not_as_its_namespace_says_is_not_matched(catalog: Catalog) -> None:
    header = Segments(NAMESPACE).entry(CHAIN, 0, 16).header
    wrong = [
        replace(header, layers=(0, 2)),
        replace(header, slice_bytes=(64, 65)),
        replace(header, chunk_tokens=32),
        replace(header, depth=1, parent=b"p" * 32),
    ]
    named = [replace(item, name=segment_name("w", number)) for number, item in enumerate(wrong)]
    Log(catalog).commit(*(CommitEntry(item, (b"d" * 16,) * 2) for item in named))
    assert match(catalog, NAMESPACE, CHAIN, [(0, 0)]).tokens == 0
    assert len(catalog.find(CHAIN[0], 0, 0)) == 4


def test_nothing_is_visible_without_a_commit(catalog: Catalog) -> None:
    Segments(NAMESPACE).entry(CHAIN, 0, 16)
    assert matched(catalog, CHAIN) == []


def test_parts_are_those_of_the_layout(catalog: Catalog) -> None:
    for parts in ([(1, 0)], [(0, 1)], [(-1, 0)], [(0, 0), (0, 0)]):
        with pytest.raises(LayoutError):
            match(catalog, NAMESPACE, CHAIN, parts)
    assert match(catalog, NAMESPACE, CHAIN, []) == (0, [])
    assert match(catalog, NAMESPACE, KeyChain(), [(0, 0)]) == (0, [])


def test_a_missing_shard_matches_as_far_as_all_hold(catalog: Catalog) -> None:
    namespace = namespace_of(simple_layout(shards=3))
    chain = chain_of(namespace, "abcdefghijklmnop")
    segments = Segments(namespace)
    log = Log(catalog)
    log.commit(segments.entry(chain, 0, 16, shard=0), segments.entry(chain, 0, 5, shard=1))
    parts = [(0, 0), (0, 1), (0, 2)]
    assert match(catalog, namespace, chain, parts[:2]).tokens == 80
    assert match(catalog, namespace, chain, parts) == (0, [])
    log.commit(segments.entry(chain, 0, 7, shard=2))
    found = match(catalog, namespace, chain, parts)
    assert found.tokens == 80
    assert [places(part.runs) for part in found.parts] == [[("001", 0, 5)], [("002", 0, 5)], [("003", 0, 5)]]


HYBRID = namespace_of(hybrid_layout())
LONG = chain_of(HYBRID, "abcdefghijklmnop")
FULL, OTHER, WINDOW, STATE = (0, 0), (0, 1), (1, 0), (2, 0)


def test_each_group_needs_what_its_rule_says(catalog: Catalog) -> None:
    segments = Segments(HYBRID)
    Log(catalog).commit(
        segments.entry(LONG, 0, 16),
        segments.entry(LONG, 0, 13, shard=1),
        segments.entry(LONG, 7, 16, group=1),
        segments.entry(LONG, 4, 6, group=2),
    )
    found = match(catalog, HYBRID, LONG, [STATE, FULL, WINDOW, OTHER])
    assert found.tokens == 192
    assert [(part.part, part.first, part.stop, places(part.runs)) for part in found.parts] == [
        (STATE, 5, 6, [("004", 1, 2)]),
        (FULL, 0, 12, [("001", 0, 12)]),
        (WINDOW, 9, 12, [("003", 2, 5)]),
        (OTHER, 0, 12, [("002", 0, 12)]),
    ]


def test_a_gap_in_the_window_moves_the_boundary(catalog: Catalog) -> None:
    segments = Segments(HYBRID)
    Log(catalog).commit(
        *(segments.entry(LONG, first, stop, group=1) for first, stop in ((0, 5), (6, 8), (9, 16))),
        *(segments.entry(LONG, state, state + 1, group=2) for state in (0, 1, 6)),
    )
    assert match(catalog, HYBRID, LONG, [WINDOW]).tokens == 256
    assert match(catalog, HYBRID, LONG[:11], [WINDOW]).tokens == 64  # 10, 8 and 6 see the gaps at 8 and 5
    assert match(catalog, HYBRID, LONG, [STATE]).tokens == 224
    assert match(catalog, HYBRID, LONG, [WINDOW, STATE]).tokens == 224
    assert match(catalog, HYBRID, LONG[:13], [WINDOW, STATE]).tokens == 64


def test_a_window_at_the_start_is_shorter(catalog: Catalog) -> None:
    segments = Segments(HYBRID)
    Log(catalog).commit(segments.entry(LONG, 0, 1, group=1), segments.entry(LONG, 1, 2, group=1))
    (part,) = match(catalog, HYBRID, LONG, [WINDOW]).parts
    assert (part.first, part.stop, places(part.runs)) == (0, 2, [("001", 0, 1), ("002", 0, 1)])


def test_boundaries_suit_groups_that_are_not_asked_for(catalog: Catalog) -> None:
    Log(catalog).commit(Segments(HYBRID).entry(LONG, 0, 7))
    assert match(catalog, HYBRID, LONG, [FULL]).tokens == 96


def test_larger_chunks_are_named_by_their_last_key(catalog: Catalog) -> None:
    shards = simple_layout().groups[0].shards
    namespace = namespace_of(KVLayout((KVGroup("small", 16, shards), KVGroup("large", 48, shards))))
    chain = chain_of(namespace, "abcdefghijklmnop")
    entry = Segments(namespace).entry(chain, 0, 5, group=1)
    Log(catalog).commit(entry)
    assert entry.header.keys[0] == chain[2]
    assert match(catalog, namespace, chain, [(1, 0)]).tokens == 240
    assert match(catalog, namespace, chain[:8], [(1, 0)]).tokens == 96
