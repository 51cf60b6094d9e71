"""Writing and following logs."""

from __future__ import annotations

from threading import Thread
from typing import Any

import msgpack
import pytest

from objectcache.commitlog import CommitLog, LogRecord, LogTrimmedError
from objectcache.errors import CatalogError, InvalidObjectNameError, LayoutError, StoreUnavailableError
from objectcache.integrity import Buffer, seal
from objectcache.logrecord import RECORD_MAGIC
from objectcache.names import LOG_PREFIX, log_name, segment_name
from objectcache.stores import MemoryStore, ObjectInfo
from tests.catalog.world import Segments, chain_of, namespace_of, simple_layout

NAMESPACE = namespace_of(simple_layout())
CHAIN = chain_of(NAMESPACE, "abcdefgh")
LATER = seal(RECORD_MAGIC + msgpack.packb({"version": 2}))


def places(log: CommitLog, **positions: int) -> list[tuple[str, int]]:
    return [(record.writer, record.sequence) for record in log.follow(positions)]


def log_of(store: MemoryStore, writer: str, records: int) -> CommitLog:
    log = CommitLog(store, writer)
    for _ in range(records):
        log.append()
    return log


def test_a_log_is_gapless_from_one_on() -> None:
    store = MemoryStore()
    entry = Segments(NAMESPACE).entry(CHAIN, 0, 8)
    log = CommitLog(store, "w", clock=lambda: 5.0)
    first = log.append([entry])
    second = log.append(deletes=[entry.name], seen={"w": 1})
    assert first == LogRecord("w", 1, 5.0, (entry,))
    assert second == LogRecord("w", 2, 5.0, deletes=(entry.name,), seen=(("w", 1),))
    assert list(CommitLog(store, "other").follow({})) == [first, second]


def test_a_new_process_goes_on_at_the_end() -> None:
    store = MemoryStore()
    log_of(store, "w", 3)
    assert CommitLog(store, "w").append().sequence == 4
    assert CommitLog(store, "w", position=2).append().sequence == 5


def test_a_log_that_was_removed_whole_goes_on_after_its_snapshot() -> None:
    store = MemoryStore()
    log_of(store, "w", 3).write_snapshot({"w": 3})
    for sequence in (1, 2, 3):
        store.delete(log_name("w", sequence))
    assert CommitLog(store, "w").append().sequence == 4


def test_threads_share_a_log() -> None:
    store = MemoryStore()
    log = CommitLog(store, "w")
    threads = [Thread(target=lambda: [log.append() for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert places(log) == [("w", sequence) for sequence in range(1, 201)]


class LosesAnswers(MemoryStore):
    """Stores the next object, and says that it could not."""

    loses = False

    def put(self, name: str, data: Buffer, **options: Any) -> ObjectInfo:
        info = super().put(name, data, **options)
        if self.loses:
            self.loses = False
            raise StoreUnavailableError("no answer")
        return info


def test_a_record_whose_answer_was_lost_is_not_overwritten() -> None:
    store = LosesAnswers()
    log = CommitLog(store, "w")
    log.append()
    store.loses = True
    with pytest.raises(StoreUnavailableError):
        log.append(deletes=[segment_name("x", 1)], seen={})
    assert log.append().sequence == 3
    assert [len(record.deletes) for record in log.follow({})] == [0, 1, 0]


def test_a_second_writer_of_the_same_id_loses_no_record() -> None:
    store = MemoryStore()
    one, other = log_of(store, "w", 2), log_of(store, "w", 2)
    assert [one.append().sequence, other.append().sequence, one.append().sequence] == [5, 6, 7]


class NeverFree(MemoryStore):
    """Somebody else is always faster."""

    def put(self, name: str, data: Buffer, **options: Any) -> ObjectInfo:
        super().put(name, data)
        return super().put(name, data, **options)


def test_a_log_that_somebody_else_writes_is_an_error() -> None:
    with pytest.raises(CatalogError):
        CommitLog(NeverFree(), "w").append()


def test_what_cannot_be_a_record_is_not_written() -> None:
    store = MemoryStore()
    log = CommitLog(store, "w")
    with pytest.raises(LayoutError):
        log.append(deletes=[segment_name("x", 1)])
    with pytest.raises(InvalidObjectNameError):
        log.append(deletes=["x"], seen={})
    with pytest.raises(InvalidObjectNameError):
        CommitLog(store, "W")
    assert places(log) == []


# -- following ------------------------------------------------------------------------------------


def test_all_writers_are_followed_from_their_positions() -> None:
    store = MemoryStore()
    log = log_of(store, "a", 3)
    log_of(store, "b", 2)
    assert places(log) == [("a", 1), ("a", 2), ("a", 3), ("b", 1), ("b", 2)]
    assert places(log, a=2) == [("a", 3), ("b", 1), ("b", 2)]
    assert places(log, a=3, b=2) == []
    assert places(log, a=9) == [("b", 1), ("b", 2)]


def test_what_is_no_log_is_passed_over() -> None:
    store = MemoryStore()
    log = log_of(store, "a", 1)
    store.put(f"{LOG_PREFIX}A/000/000/000/001", b"")
    store.put(f"{LOG_PREFIX}a/000/000/000/0001", b"")
    store.put(f"{LOG_PREFIX}a/readme", b"")
    store.put(f"{LOG_PREFIX}readme", b"")
    assert places(log) == [("a", 1)]


def test_a_damaged_record_is_taken_for_empty_and_counted() -> None:
    store = MemoryStore()
    entry = Segments(NAMESPACE).entry(CHAIN, 0, 8)
    log = CommitLog(store, "w")
    for _ in range(3):
        log.append([entry])
    damaged = bytearray(store.get(log_name("w", 2)))
    damaged[100] ^= 1
    store.put(log_name("w", 2), damaged)
    assert [len(record.commits) for record in log.follow({})] == [1, 0, 1]
    assert log.damaged_records == 1


class FailsOnce(MemoryStore):
    """The first read of each object brings other bytes."""

    def __init__(self) -> None:
        super().__init__()
        self._read: set[str] = set()

    def get(self, name: str) -> bytes:
        if name in self._read:
            return super().get(name)
        self._read.add(name)
        return b"other bytes"


def test_a_read_that_goes_wrong_once_is_no_damage() -> None:
    store = FailsOnce()
    log = CommitLog(store, "w")
    log.append([Segments(NAMESPACE).entry(CHAIN, 0, 8)])
    assert [len(record.commits) for record in log.follow({})] == [1]
    assert log.damaged_records == 0


def test_a_record_of_a_later_format_holds_up_its_writer_only() -> None:
    store = MemoryStore()
    log = log_of(store, "a", 3)
    log_of(store, "b", 1)
    store.put(log_name("a", 2), LATER)
    for _ in range(20):
        assert places(log) == [("a", 1), ("b", 1)]
    assert log.damaged_records == 0


def test_a_gap_holds_up_its_writer_only() -> None:
    store = MemoryStore()
    log = log_of(store, "a", 4)
    log_of(store, "b", 1)
    third = store.get(log_name("a", 3))
    store.delete(log_name("a", 3))
    assert places(log) == [("a", 1), ("a", 2), ("b", 1)]
    assert places(log, a=2) == [("b", 1)]
    store.put(log_name("a", 3), third)
    assert places(log, a=2) == [("a", 3), ("a", 4), ("b", 1)]


def test_a_gap_that_stays_is_taken_for_empty_records() -> None:
    store = MemoryStore()
    log = log_of(store, "a", 6)
    for sequence in (1, 2, 3, 5):
        store.delete(log_name("a", sequence))
    position, rounds = 0, 0
    while position < 6 and rounds < 100:
        rounds += 1
        for record in log.follow({"a": position}):
            position += 1
            assert record.sequence == position
    assert position == 6
    assert log.damaged_records == 4
    assert 10 < rounds < 30  # it was waited for, at each of the two gaps


class ListsLate(MemoryStore):
    """A listing that does not know yet what can be read."""

    hidden = ""

    def list(self, prefix: str = "", *, start_after: str = "") -> object:  # type: ignore[override]
        return (info for info in super().list(prefix, start_after=start_after) if info.name != self.hidden)


def test_a_listing_that_lags_is_no_gap() -> None:
    store = ListsLate()
    log = log_of(store, "a", 3)
    store.hidden = log_name("a", 2)
    assert places(log) == [("a", 1), ("a", 2), ("a", 3)]


def test_a_follower_that_was_left_behind_hears_of_it() -> None:
    store = MemoryStore()
    log = log_of(store, "a", 4)
    log.write_snapshot({"a": 3})
    store.delete(log_name("a", 1))
    store.delete(log_name("a", 2))
    with pytest.raises(LogTrimmedError):
        list(log.follow({}))
    with pytest.raises(LogTrimmedError):
        list(log.follow({"a": 1}))
    assert places(log, a=2) == [("a", 3), ("a", 4)]
