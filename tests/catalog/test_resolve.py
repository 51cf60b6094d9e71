"""From a leaf key back through the segments' parents: worked examples."""

from __future__ import annotations

import pytest

from objectcache.catalog import Catalog
from objectcache.errors import DescriptorError, KeyNotFoundError, NamespaceMismatchError
from objectcache.keys import salt_digest
from tests.catalog.world import Log, Segments, chain_of, namespace_of, places, simple_layout

NAMESPACE = namespace_of(simple_layout())
ROOT = NAMESPACE.digest
CHAIN = chain_of(NAMESPACE, "abcdefghijklmnop")
BRANCH = chain_of(NAMESPACE, "abcdefGHIJ")


@pytest.fixture
def branched(catalog: Catalog) -> Catalog:
    segments = Segments(NAMESPACE)
    Log(catalog).commit(
        *segments.entries(CHAIN, [0, 4, 9, 16]), segments.entry(BRANCH, 6, 8), segments.entry(BRANCH, 8, 10)
    )
    return catalog


def resolved(catalog: Catalog, leaf: bytes, first: int, stop: int) -> list[tuple[str, int, int]]:
    return places(catalog.resolve(ROOT, 0, 0, leaf, first, stop))


def test_a_whole_chain(branched: Catalog) -> None:
    assert resolved(branched, CHAIN[15], 0, 16) == [("001", 0, 4), ("002", 0, 5), ("003", 0, 7)]


def test_any_range_of_a_chain(branched: Catalog) -> None:
    assert resolved(branched, CHAIN[10], 3, 11) == [("001", 3, 4), ("002", 0, 5), ("003", 0, 2)]
    assert resolved(branched, CHAIN[6], 5, 7) == [("002", 1, 3)]
    assert resolved(branched, CHAIN[8], 4, 9) == [("002", 0, 5)]


def test_a_parent_in_the_middle_of_a_segment(branched: Catalog) -> None:
    assert resolved(branched, BRANCH[9], 0, 10) == [("001", 0, 4), ("002", 0, 2), ("004", 0, 2), ("005", 0, 2)]


def test_of_duplicates_the_one_that_goes_back_farthest_is_taken(branched: Catalog) -> None:
    Log(branched, "other").commit(Segments(NAMESPACE, "other").entry(CHAIN, 2, 16))
    runs = branched.resolve(ROOT, 0, 0, CHAIN[15], 0, 16)
    assert [(run.segment.name[8:13], run.first, run.stop) for run in runs] == [("w/000", 0, 2), ("other", 0, 14)]


def test_a_gap_names_the_chunk(branched: Catalog) -> None:
    second = branched.segment(2)
    assert second is not None
    assert branched.drop(second.name)
    with pytest.raises(KeyNotFoundError, match="chunk 8 "):
        branched.resolve(ROOT, 0, 0, CHAIN[15], 0, 16)
    with pytest.raises(KeyNotFoundError, match="chunk 5 "):
        branched.resolve(ROOT, 0, 0, BRANCH[9], 0, 10)
    assert resolved(branched, CHAIN[15], 9, 16) == [("003", 0, 7)]


def test_an_unknown_leaf(branched: Catalog) -> None:
    for group, shard, leaf in ((0, 0, b"?" * 32), (0, 1, CHAIN[15]), (1, 0, CHAIN[15])):
        with pytest.raises(KeyNotFoundError):
            branched.resolve(ROOT, group, shard, leaf, 0, 16)


def test_a_leaf_that_is_elsewhere_in_its_chain(branched: Catalog) -> None:
    for stop in (15, 17):
        with pytest.raises(DescriptorError):
            branched.resolve(ROOT, 0, 0, CHAIN[15], 0, stop)


def test_a_leaf_of_another_namespace(branched: Catalog) -> None:
    salted = namespace_of(simple_layout(), salt_digest("tenant"))
    with pytest.raises(NamespaceMismatchError):
        branched.resolve(salted.digest, 0, 0, CHAIN[15], 0, 16)


@pytest.mark.parametrize(("first", "stop"), [(0, 0), (-1, 16), (16, 16), (9, 4)])
def test_what_is_no_range(branched: Catalog, first: int, stop: int) -> None:
    with pytest.raises(DescriptorError):
        branched.resolve(ROOT, 0, 0, CHAIN[15], first, stop)
