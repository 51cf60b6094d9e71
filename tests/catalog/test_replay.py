"""What records do to a catalog, and what is forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest

from objectcache.catalog import Catalog
from objectcache.errors import CatalogError
from objectcache.logrecord import LogRecord, Replacement
from objectcache.names import segment_name
from tests.catalog.world import Log, Segments, chain_of, namespace_of, places, simple_layout

NAMESPACE = namespace_of(simple_layout())
CHAIN = chain_of(NAMESPACE, "abcdefghijklmnop")


def names(catalog: Catalog) -> list[str]:
    return [record.name[-3:] for record in catalog.segments()]


def test_a_committed_segment_is_all_there(catalog: Catalog) -> None:
    entry = Segments(NAMESPACE).entry(CHAIN, 4, 12)
    Log(catalog).commit(entry)
    record = catalog.segment_named(entry.name)
    assert record is not None
    assert record == catalog.segment(record.id) == next(catalog.segments())
    header = entry.header
    for field in ("name", "namespace", "group", "shard", "chunk_tokens", "layers", "slice_bytes", "depth", "parent"):
        assert getattr(record, field) == getattr(header, field)
    assert (record.num_chunks, record.leaf) == (8, CHAIN[11])
    assert (record.header_bytes, record.total_bytes) == (len(header.encoded), header.total_bytes)
    assert record.row_digests == entry.row_digests
    assert record.geometry == header.geometry
    assert [catalog.find(key, 0, 0) for key in CHAIN[3:13]] == [
        [],
        *([(record, index)] for index in range(8)),
        [],
    ]


def test_records_are_applied_once(catalog: Catalog) -> None:
    first, second = Segments(NAMESPACE).entries(CHAIN, [0, 4, 8])
    records = [LogRecord("w", 1, 0.0, (first,)), LogRecord("w", 2, 0.0, (second,))]
    assert catalog.apply(records) == 2
    assert catalog.apply(records) == 0
    assert catalog.apply([records[0]]) == 0
    assert (catalog.stats().segments, catalog.stats().chunks) == (2, 8)
    assert catalog.positions() == {"w": 2}


def test_a_record_without_its_predecessor_is_refused(catalog: Catalog) -> None:
    entry = Segments(NAMESPACE).entry(CHAIN, 0, 4)
    with pytest.raises(CatalogError):
        catalog.apply([LogRecord("w", 1, 0.0), LogRecord("w", 3, 0.0, (entry,))])
    assert names(catalog) == []
    assert catalog.positions() == {}


def test_a_segment_that_is_committed_twice_is_there_once(catalog: Catalog) -> None:
    entry = Segments(NAMESPACE).entry(CHAIN, 0, 4)
    log = Log(catalog)
    log.commit(entry)
    log.commit(entry)
    assert (catalog.stats().segments, catalog.stats().chunks) == (1, 4)
    assert len(catalog.find(CHAIN[0], 0, 0)) == 1


def test_deleting_and_replacing(catalog: Catalog) -> None:
    a, b, c, merged = (
        Segments(NAMESPACE).entry(CHAIN, *cut, name=segment_name("w", n))
        for n, cut in enumerate([(0, 4), (4, 8), (8, 16), (0, 8)], 1)
    )
    log = Log(catalog)
    log.commit(a, b, c)
    log.step(commits=(merged,), replaces=(Replacement((a.name, b.name), (merged.name,)),), seen=(("w", 1),))
    assert places(catalog.match_part(CHAIN, 0, 0)) == [("004", 0, 8), ("003", 0, 8)]
    log.delete(c.name, seen=(("w", 2),))
    assert places(catalog.match_part(CHAIN, 0, 0)) == [("004", 0, 8)]
    assert catalog.segment_named(c.name) is None
    stats = catalog.stats()
    assert (stats.segments, stats.chunks, stats.total_bytes) == (1, 8, merged.header.total_bytes)


def test_a_removal_may_be_read_before_its_commit(catalog: Catalog) -> None:
    entry = Segments(NAMESPACE, "a").entry(CHAIN, 0, 4)
    other, own = Log(catalog, "b"), Log(catalog, "a")
    other.delete(entry.name, seen=(("a", 2), ("b", 0)))
    own.commit()
    own.commit(entry)
    assert names(catalog) == []
    own.commit(entry)  # settled: what comes after what was seen is another matter
    assert names(catalog) == ["001"]


def test_a_removal_of_what_is_gone_leaves_nothing_behind(catalog: Catalog) -> None:
    entry = Segments(NAMESPACE, "a").entry(CHAIN, 0, 4)
    own, other = Log(catalog, "a"), Log(catalog, "b")
    own.commit(entry)
    own.delete(entry.name, seen=(("a", 1),))
    other.delete(entry.name, seen=(("a", 1),))
    other.delete(segment_name("x", 1), seen=(("a", 3),))  # waits for record 3 of a
    assert catalog._removals_waiting() == 1
    own.commit()
    assert catalog._removals_waiting() == 0


# -- what is gone from the store, and the index entries it leaves -----------------------------------


def test_dropping_forgets_a_segment(catalog: Catalog) -> None:
    first, second = Segments(NAMESPACE).entries(CHAIN, [0, 4, 8])
    Log(catalog).commit(first, second)
    assert catalog.drop(second.name)
    assert not catalog.drop(second.name)
    assert places(catalog.match_part(CHAIN, 0, 0)) == [("001", 0, 4)]
    stats = catalog.stats()
    assert (stats.segments, stats.chunks, stats.dangling_chunks) == (1, 4, 4)


def test_a_segment_that_comes_and_goes_in_one_transaction_leaves_nothing(catalog: Catalog) -> None:
    entry = Segments(NAMESPACE).entry(CHAIN, 0, 4)
    catalog.apply([LogRecord("w", 1, 0.0, (entry,)), LogRecord("w", 2, 0.0, deletes=(entry.name,), seen=(("w", 1),))])
    assert catalog.stats().dangling_chunks == 0
    assert catalog.find(CHAIN[0], 0, 0) == []


@pytest.mark.parametrize("step", [1, 3, 7, 1000])
def test_sweeping_goes_over_the_index_in_steps(catalog: Catalog, step: int) -> None:
    segments = Segments(NAMESPACE)
    entries = [segments.entry(CHAIN, 0, stop) for stop in range(1, 17)]
    Log(catalog).commit(*entries)
    for entry in entries[::2]:
        catalog.drop(entry.name)
    dangling = catalog.stats().dangling_chunks
    assert dangling == 64
    removed = rounds = 0
    while catalog.stats().dangling_chunks and rounds < 1000:
        found = catalog.sweep(step)
        assert found <= step
        removed += found
        rounds += 1
    assert removed == dangling
    assert catalog.sweep(step) == 0
    assert len(catalog.find(CHAIN[0], 0, 0)) == 8


def test_dangling_entries_that_are_met_go_with_the_next_transaction(catalog: Catalog) -> None:
    first, second = Segments(NAMESPACE).entries(CHAIN, [0, 4, 8])
    Log(catalog).commit(first, second)
    catalog.drop(first.name)
    catalog.match_part(CHAIN, 0, 0)  # meets the first entry
    catalog.flush()
    assert catalog.stats().dangling_chunks == 3


def test_ids_are_not_used_again(catalog: Catalog) -> None:
    segments = Segments(NAMESPACE)
    log = Log(catalog)
    log.commit(segments.entry(CHAIN, 0, 4))
    (before,) = catalog.segments()
    catalog.reset()
    Log(catalog).commit(segments.entry(CHAIN, 0, 4))
    (after,) = catalog.segments()
    assert after.id > before.id
    assert catalog.segment(before.id) is None


# -- the map ----------------------------------------------------------------------------------------


def test_the_map_grows(tmp_path: Path) -> None:
    chain = chain_of(NAMESPACE, "x" * 4096)
    segments = Segments(NAMESPACE)
    with Catalog.open(tmp_path, map_bytes=1 << 17) as catalog:
        for writer in "abcd":
            catalog.apply([LogRecord(writer, 1, 0.0, tuple(segments.entries(chain, range(0, 4097, 64))))])
        assert catalog.stats().map_bytes >= 1 << 20
        assert catalog.stats().chunks == 4 * 4096
        assert len(catalog.match_part(chain, 0, 0)) == 64
    with Catalog.open(tmp_path, map_bytes=1 << 17) as catalog:
        assert len(catalog.find(chain[0], 0, 0)) == 4


def test_a_map_that_holds_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CatalogError):
        Catalog.open(tmp_path, map_bytes=1 << 13)
    with Catalog.open(tmp_path):
        pass


# -- namespaces -------------------------------------------------------------------------------------


def test_namespaces_are_noted_before_they_are_known(catalog: Catalog) -> None:
    Log(catalog).commit(Segments(NAMESPACE).entry(CHAIN, 0, 4))
    assert catalog.unread_namespaces() == [NAMESPACE.digest]
    assert (catalog.namespaces(), catalog.namespace(NAMESPACE.digest)) == ([], None)
    catalog.add_namespace(NAMESPACE)
    assert catalog.unread_namespaces() == []
    assert catalog.namespaces() == [NAMESPACE]
    assert catalog.namespace(NAMESPACE.digest) == NAMESPACE
    assert catalog.namespace(b"?" * 32) is None
