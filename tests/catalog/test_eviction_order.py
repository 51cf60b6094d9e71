"""Which segments are to go first."""

from __future__ import annotations

from pathlib import Path

import pytest

from objectcache.catalog import Catalog, recency
from objectcache.keys import KeyChain
from tests.catalog.world import Log, Segments, chain_of, namespace_of, simple_layout

NAMESPACE = namespace_of(simple_layout())
A = chain_of(NAMESPACE, "abcdefgh")
B = chain_of(NAMESPACE, "stuvwxyz")


def order(catalog: Catalog, pinned: tuple[int, ...] = ()) -> list[int]:
    return [record.id for record in catalog.eviction_order(pinned)]


def use(catalog: Catalog, chain: KeyChain, now_s: float) -> None:
    catalog.touch([run.segment.id for run in catalog.match_part(chain, 0, 0)], now_s)


def filled(catalog: Catalog) -> Segments:
    """Ids 1, 2, 3 are A from its start, 4, 5 are B, committed later."""
    segments = Segments(NAMESPACE)
    log = Log(catalog)
    log.commit(*segments.entries(A, [0, 2, 4, 6]), now_s=10.0)
    log.commit(*segments.entries(B, [0, 4, 8]), now_s=20.0)
    return segments


def test_least_recently_used_first_and_leaves_before_their_prefixes(catalog: Catalog) -> None:
    filled(catalog)
    assert order(catalog) == [3, 2, 1, 5, 4]
    use(catalog, A[:4], 30.0)
    assert order(catalog) == [3, 5, 4, 2, 1]
    use(catalog, B, 40.0)
    assert order(catalog) == [3, 2, 1, 5, 4]


def test_what_a_new_segment_stands_on_was_used_too(catalog: Catalog) -> None:
    segments = filled(catalog)
    Log(catalog, "x").commit(segments.entry(A, 6, 8), now_s=30.0)
    assert order(catalog) == [5, 4, 6, 3, 2, 1]


def test_pinned_segments_stay(catalog: Catalog) -> None:
    filled(catalog)
    assert order(catalog, (2, 5)) == [3, 1, 4]


def test_pins_are_asked_for_when_a_segments_turn_comes(catalog: Catalog) -> None:
    filled(catalog)
    pinned: set[int] = set()
    candidates = catalog.eviction_order(pinned)
    assert next(candidates).id == 3
    pinned.add(2)
    assert [record.id for record in candidates] == [1, 5, 4]


def test_what_was_used_or_went_meanwhile_is_passed_over(catalog: Catalog) -> None:
    filled(catalog)
    candidates = catalog.eviction_order()
    first = catalog.segment(2)
    assert first is not None
    catalog.drop(first.name)
    catalog.touch([1], 50.0)
    assert [record.id for record in candidates] == [3, 5, 4]
    candidates = catalog.eviction_order()
    catalog.touch([4], 60.0)
    catalog.flush()
    assert [record.id for record in candidates] == [3, 5, 1]


def test_uses_outlive_the_process(tmp_path: Path) -> None:
    with Catalog.open(tmp_path) as catalog:
        filled(catalog)
        catalog.touch([1, 2, 3, 99], 30.0)
    with Catalog.open(tmp_path) as catalog:
        assert order(catalog) == [5, 4, 3, 2, 1]


def test_more_uses_than_are_kept_in_memory(catalog: Catalog) -> None:
    filled(catalog)
    catalog.touch(range(1, 20_000), 30.0)
    assert catalog._recency.waiting() == {}
    assert order(catalog) == [3, 5, 2, 1, 4]


def test_segments_are_read_in_pieces(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(catalog)
    for pieces in (1, 2, 5, 6):
        monkeypatch.setattr(recency, "_JOINED_AT_ONCE", pieces)
        assert order(catalog) == [3, 2, 1, 5, 4]


def test_an_empty_catalog_has_nothing_to_evict(catalog: Catalog) -> None:
    assert order(catalog) == []
