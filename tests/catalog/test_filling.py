"""An empty catalog is filled in the order of its index: with the same result, whatever happens on the way."""

from __future__ import annotations

import errno
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.catalog import Catalog, Follower, grouping, loading
from objectcache.catalog.filling import Filling
from objectcache.catalog.loading import IndexLoad
from objectcache.catalog.records import ROW_BYTES, chunk_entries, entry_rows, part_key, row_ids
from objectcache.commitlog import CommitLog
from objectcache.errors import CatalogError, StoreError
from objectcache.logrecord import CommitEntry, LogRecord
from objectcache.stores import FileStore
from tests.catalog.processes import NAMESPACE as PROCESS_NAMESPACE
from tests.catalog.processes import fill_for_ever
from tests.catalog.test_processes import FORKS, wait_for
from tests.catalog.world import Log, Segments, chain_of, content, hybrid_layout, namespace_of, places, simple_layout

NAMESPACE = namespace_of(simple_layout())
CHAINS = [chain_of(NAMESPACE, text * 64) for text in "abc"]


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group is eight chunks, a run a few more, and so on: all that is large elsewhere."""
    monkeypatch.setattr(grouping, "BATCH_CHUNKS", 8)
    monkeypatch.setattr(loading, "RUN_ROWS", 20)
    monkeypatch.setattr(loading, "_SAMPLE_ROWS", 3)
    monkeypatch.setattr(loading, "_SAMPLES_PER_PART", 2)


def records_of(chains: int = 3, step: int = 4) -> list[LogRecord]:
    segments = Segments(NAMESPACE)
    entries = [entry for chain in CHAINS[:chains] for entry in segments.entries(chain, range(0, 65, step))]
    return [LogRecord("w", number, 0.0, (entry,)) for number, entry in enumerate(entries, 1)]


def one_by_one(path: Path, records: list[LogRecord]) -> Catalog:
    """Never empty, so that each record goes into the index by itself."""
    catalog = Catalog.open(path)
    for record in records:
        catalog.apply([record], now_s=1.0)
    return catalog


def test_filling_gives_what_one_record_after_the_other_gives(tmp_path: Path) -> None:
    records = records_of()
    with Catalog.open(tmp_path / "filled") as filled, one_by_one(tmp_path / "slow", records) as slow:
        assert filled.apply(records, now_s=1.0) == len(records)
        assert content(filled) == content(slow)
        assert not filled.damaged
        for chain in CHAINS:
            assert len(filled.match_part(chain, 0, 0)) == 16
        # And it goes on as any other.
        Log(filled, "x").commit(Segments(NAMESPACE, "x").entry(CHAINS[0], 0, 8))
        assert len(filled.find(CHAINS[0][0], 0, 0)) == 2
    with Catalog.open(tmp_path / "filled") as again:
        assert again.stats().segments == len(records) + 1


def test_a_catalog_that_has_something_is_not_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *others = records_of()
    with one_by_one(tmp_path, [first]) as catalog:
        monkeypatch.delattr(Filling, "take")
        assert catalog.apply(others) == len(others)


def test_what_is_removed_on_the_way_is_not_in_the_index(tmp_path: Path) -> None:
    records = records_of()
    gone = [record.commits[0].name for record in records[1:40:3]]
    last = len(records)
    records.append(LogRecord("w", last + 1, 0.0, deletes=tuple(gone), seen=(("w", last),)))
    with Catalog.open(tmp_path / "filled") as filled, one_by_one(tmp_path / "slow", records) as slow:
        filled.apply(records, now_s=1.0)
        assert content(filled) == content(slow)
        assert filled.stats().dangling_chunks == 0
        assert slow.stats().dangling_chunks == 4 * len(gone)


def test_several_parts_of_several_namespaces(tmp_path: Path) -> None:
    namespace = namespace_of(hybrid_layout())
    chain = chain_of(namespace, "d" * 64)
    segments = Segments(namespace)
    parts = [(0, 0), (0, 1), (1, 0), (2, 0)]
    entries: list[CommitEntry] = [
        segments.entry(chain, first, first + 4, group=group, shard=shard)
        for first in range(0, 28, 4)
        for group, shard in parts
    ]
    records = [LogRecord("v", number, 0.0, (entry,)) for number, entry in enumerate(entries, 1)] + records_of(2)
    with Catalog.open(tmp_path / "filled") as filled, one_by_one(tmp_path / "slow", records) as slow:
        filled.apply(records, now_s=1.0)
        assert content(filled) == content(slow)
        for group, shard in parts:
            assert len(filled.match_part(chain.coarsen(2 if group == 2 else 1), group, shard)) == 7


def failing(records: list[LogRecord], error: Exception) -> Iterator[LogRecord]:
    yield from records
    raise error


@pytest.mark.parametrize("read", [1, 3, 20])
def test_what_was_read_before_a_failure_counts(tmp_path: Path, read: int) -> None:
    records = records_of()
    with Catalog.open(tmp_path) as catalog:
        with pytest.raises(StoreError):
            catalog.apply(failing(records[:read], StoreError("the store has failed")), now_s=1.0)
        assert not catalog.damaged
        whole = read // 2 * 2  # a group is two segments
        assert catalog.positions() == ({"w": whole} if whole else {})
        assert len(catalog.match_part(CHAINS[0], 0, 0)) == min(16, whole)
        assert catalog.apply(records, now_s=1.0) == len(records) - whole


def test_a_gap_is_refused_after_what_came_before_it(tmp_path: Path) -> None:
    records = records_of()
    with Catalog.open(tmp_path) as catalog:
        with pytest.raises(CatalogError, match="does not follow"):
            catalog.apply(records[:8] + records[9:])
        assert len(catalog.match_part(CHAINS[0], 0, 0)) == 8
        assert not catalog.damaged


def test_an_interruption_leaves_a_catalog_to_be_discarded(tmp_path: Path) -> None:
    with Catalog.open(tmp_path) as catalog:
        with pytest.raises(KeyboardInterrupt):
            catalog.apply(failing(records_of(), KeyboardInterrupt()))  # type: ignore[arg-type]
        assert catalog.damaged
    with Catalog.open(tmp_path) as catalog:
        assert catalog.stats().segments == 0
        assert catalog.apply(records_of()) == 48


def test_without_room_to_sort_it_is_discarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(dir: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Catalog.open(tmp_path) as catalog:
        with monkeypatch.context() as patch:
            patch.setattr(tempfile, "TemporaryFile", full)
            with pytest.raises(CatalogError, match="cannot be completed") as caught:
                catalog.apply(records_of())
            assert "No space left" in str(caught.value.__context__)
        assert catalog.damaged
        catalog.reset()
        assert catalog.apply(records_of()) == 48
        assert len(catalog.match_part(CHAINS[2], 0, 0)) == 16
        assert not catalog.damaged


def test_a_snapshot_is_restored_in_the_same_way(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    log = CommitLog(store, "w")
    for record in records_of():
        log.append(record.commits)
    log.write_snapshot({"w": 48})
    with Catalog.open(tmp_path / "restored") as restored, one_by_one(tmp_path / "slow", records_of()) as slow:
        Follower(store, restored, clock=lambda: 1.0).poll()
        assert content(restored) == content(slow)
        assert list(restored.eviction_order()) == list(slow.eviction_order())


def test_a_process_that_dies_while_it_fills_leaves_nothing_that_is_believed(tmp_path: Path) -> None:
    for wait_s in (0.0, 0.02, 0.05, 0.1):
        running = tmp_path / "running"
        running.unlink(missing_ok=True)
        process = FORKS.Process(target=fill_for_ever, args=(tmp_path,))
        process.start()
        wait_for(running)
        time.sleep(wait_s)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        chain = chain_of(PROCESS_NAMESPACE, "f" * 64)
        with Catalog.open(tmp_path / "catalog") as catalog:
            stats = catalog.stats()
            # All of a filling, or nothing of it: between two of them the catalog is empty.
            assert (stats.segments, stats.chunks) in ((0, 0), (16, 64))
            assert len(places(catalog.match_part(chain, 0, 0))) == stats.segments
        assert sorted(os.listdir(tmp_path / "catalog")) == ["data.mdb", "lock", "lock.mdb", "state.json"]


# -- the rows -----------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 300), st.integers(1, 30)), max_size=40), st.integers(1, 200)
)
def test_rows_come_back_in_order_whatever_they_were(
    tmp_path_factory: pytest.TempPathFactory, made: list[tuple[int, int, int]], run_rows: int
) -> None:
    segments = Segments(NAMESPACE)
    wanted = []
    with IndexLoad(tmp_path_factory.getbasetemp(), run_rows) as load:
        for number, (chain, id, stop) in enumerate(made):
            header = segments.entry(CHAINS[chain], 0, stop).header
            unique = id * 1000 + number
            load.add(unique, header)
            wanted += [part_key(0, 0) + entry for entry in chunk_entries(unique, header)]
            assert row_ids(entry_rows(unique, header)).tolist() == [unique] * stop
        pieces = [piece.tobytes() for piece in load.in_order()]
        assert load.rows == len(wanted)
    assert b"".join(pieces) == b"".join(sorted(wanted))
    assert all(len(piece) % ROW_BYTES == 0 for piece in pieces)


def test_pieces_are_of_bounded_size_even_where_runs_differ(tmp_path: Path) -> None:
    """Runs of one part after runs of another, so that each has its own range of the index."""
    namespace = namespace_of(simple_layout(shards=2))
    chain = chain_of(namespace, "s" * 1024)
    segments = Segments(namespace)
    with IndexLoad(tmp_path, run_rows=128) as load:
        for number in range(32):
            load.add(number, segments.entry(chain, 32 * number, 32 * (number + 1), shard=number // 16).header)
        sizes = [len(piece) for piece in load.in_order()]
    assert sum(sizes) == 1024
    assert max(sizes) <= (2 + 9) * 3 + 1  # two samples a piece, and one sample's distance in each run
