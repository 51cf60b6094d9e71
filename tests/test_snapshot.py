"""Snapshots of the logs: what they hold, what damage does, and what trimming may remove."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from objectcache.commitlog import CommitEntry, CommitLog, LogTrimmedError, Replacement, Snapshot
from objectcache.errors import IntegrityError, ObjectNotFoundError
from objectcache.integrity import seal
from objectcache.logrecord import LaterFormatError
from objectcache.names import LOG_PREFIX, SNAPSHOT_PREFIX, log_name, segment_name
from objectcache.snapshot import SnapshotWriter, open_snapshot
from objectcache.stores import MemoryStore
from tests.catalog.world import Segments, chain_of, namespace_of, simple_layout

NAMESPACE = namespace_of(simple_layout())
CHAIN = chain_of(NAMESPACE, "abcdefgh")


def entries(count: int, writer: str = "w") -> list[CommitEntry]:
    segments = Segments(NAMESPACE, writer)
    return [segments.entry(CHAIN, 0, 8) for _ in range(count)]


def held(snapshot: Snapshot) -> list[str]:
    return sorted(entry.name for part in snapshot.parts() for entry in part.commits)


def removed(snapshot: Snapshot) -> list[tuple[str, tuple[tuple[str, int], ...]]]:
    return [removal for part in snapshot.parts() for removal in part.removed]


def names(count: int, writer: str = "w") -> list[str]:
    return [segment_name(writer, sequence) for sequence in range(1, count + 1)]


def test_a_snapshot_holds_what_is_visible_at_its_positions() -> None:
    log = CommitLog(MemoryStore(), "w")
    first, second, third, merged, late = entries(5)
    log.append([first, second, third])
    log.append(deletes=[first.name], seen={"w": 1})
    log.append([merged], replaces=[Replacement((second.name,), (merged.name,))], seen={"w": 2})
    log.append([late])
    snapshot = log.write_snapshot({"w": 3})
    assert held(snapshot) == [third.name, merged.name]
    assert removed(snapshot) == []
    assert snapshot.positions == {"w": 3}
    assert [part.commits[0] for part in snapshot.parts()] == [third]
    assert log.latest_snapshot() == snapshot


def test_a_snapshot_builds_on_the_one_before() -> None:
    store = MemoryStore()
    log, other = CommitLog(store, "a"), CommitLog(store, "b")
    one, two = entries(2, "a"), entries(2, "b")
    log.append(one)
    log.write_snapshot({"a": 1})
    store.delete(log_name("a", 1))  # so that it cannot be from the log
    other.append(two)
    other.append(deletes=[one[0].name], seen={"a": 1, "b": 1})
    snapshot = other.write_snapshot({"b": 2})
    assert snapshot.positions == {"a": 1, "b": 2}
    assert held(snapshot) == [one[1].name, two[0].name, two[1].name]


def test_nothing_new_is_no_new_snapshot() -> None:
    log = CommitLog(MemoryStore(), "w")
    log.append(entries(1))
    snapshot = log.write_snapshot({"w": 1})
    assert log.write_snapshot({"w": 1}) == snapshot
    assert log.write_snapshot({}) == snapshot


def test_a_removal_waits_in_the_snapshot_for_its_commit() -> None:
    store = MemoryStore()
    log, other = CommitLog(store, "a"), CommitLog(store, "b")
    (entry,) = entries(1, "a")
    log.append()
    log.append([entry])
    other.append(deletes=[entry.name], seen={"a": 2, "b": 0})
    assert removed(other.write_snapshot({"a": 1, "b": 1})) == [(entry.name, (("a", 2),))]
    later = other.write_snapshot({"a": 2, "b": 1})
    assert (held(later), removed(later)) == ([], [])


def test_a_removal_whose_commit_cannot_come_is_forgotten() -> None:
    store = MemoryStore()
    log = CommitLog(store, "a")
    log.append(deletes=[segment_name("x", 1)], seen={"a": 0, "x": 5})
    log.append(deletes=[segment_name("x", 2)], seen={"a": 1})
    assert removed(log.write_snapshot({"a": 2})) == [(segment_name("x", 1), (("x", 5),))]


def test_many_segments_and_removals_take_several_frames() -> None:
    store = MemoryStore()
    gone = [(segment_name("x", sequence), (("x", 9),)) for sequence in range(20_000)]
    (entry,) = entries(1)
    with store.upload(f"{SNAPSHOT_PREFIX}w/000/000/000/001") as upload:
        writer = SnapshotWriter(upload, {"w": 1})
        for _ in range(3000):
            writer.add(entry.to_wire())
        writer.finish(reversed(gone))
        upload.publish()
    snapshot = open_snapshot(store, f"{SNAPSHOT_PREFIX}w/000/000/000/001")
    assert len(held(snapshot)) == 3000
    assert removed(snapshot) == gone
    assert len(list(snapshot.parts())) > 4


def test_a_commit_that_does_not_decode_is_not_handed_on() -> None:
    """Its frame's digest is right: whoever wrote it meant it."""
    store = MemoryStore()
    log = CommitLog(store, "w")
    first, second = entries(2)
    log.append([first])
    with store.upload(f"{SNAPSHOT_PREFIX}x/000/000/000/009") as upload:
        writer = SnapshotWriter(upload, {"w": 1, "x": 8})
        writer.add([seal(first.to_wire()[0][:-20]), b""])
        writer.finish([])
        upload.publish()
    log.append([second])
    snapshot = log.write_snapshot({"w": 2})
    assert held(snapshot) == [first.name, second.name]
    assert snapshot.positions == {"w": 2}  # not from that one


# -- damage ---------------------------------------------------------------------------------------


def written(count: int = 3) -> tuple[MemoryStore, CommitLog, Snapshot, bytes]:
    store = MemoryStore()
    log = CommitLog(store, "w")
    log.append(entries(count))
    log.append(deletes=[segment_name("x", 1)], seen={"x": 1})
    snapshot = log.write_snapshot({"w": 2})
    return store, log, snapshot, store.get(snapshot.name)


def reads(store: MemoryStore, name: str) -> None:
    list(open_snapshot(store, name).parts())


def test_every_cut_is_noticed() -> None:
    store, _, snapshot, data = written()
    for length in range(len(data)):
        store.put(snapshot.name, data[:length])
        with pytest.raises(IntegrityError):
            reads(store, snapshot.name)
    store.put(snapshot.name, data + b"\0")
    with pytest.raises(IntegrityError):
        reads(store, snapshot.name)


def test_every_flipped_byte_is_noticed() -> None:
    store, _, snapshot, data = written()
    for at in range(len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 0x10
        store.put(snapshot.name, flipped)
        with pytest.raises(IntegrityError):
            reads(store, snapshot.name)


def test_a_frame_that_is_missing_is_noticed() -> None:
    store, _, snapshot, data = written()
    at, frames = 8, []
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "little")
        frames.append(data[at : at + 4 + length])
        at += 4 + length
    assert len(frames) == 4  # head, commits, removed, end
    for missing in range(len(frames)):
        store.put(snapshot.name, data[:8] + b"".join(frames[:missing] + frames[missing + 1 :]))
        with pytest.raises(IntegrityError):
            reads(store, snapshot.name)


@pytest.mark.parametrize(
    "frame",
    [
        b"\x93\x00\xa4head\x92\x01\x91\x92\xa1W\x01",  # "W" is no writer
        b"\x93\x00\xa4head\x91\x01",
        b"\x93\x00\xa4head\x00",
        b"\x92\x00\xa4head",
        b"\xc1",
    ],
)
def test_a_malformed_head_is_noticed(frame: bytes) -> None:
    store = MemoryStore()
    body = seal(frame)
    store.put("snapshot", b"OCKVSNAP" + len(body).to_bytes(4, "little") + body)
    with pytest.raises(IntegrityError):
        open_snapshot(store, "snapshot")


def test_a_later_format_is_told_from_damage() -> None:
    store = MemoryStore()
    body = seal(b"\x93\x00\xa4head\x93\x02\x80\x80")
    store.put("snapshot", b"OCKVSNAP" + len(body).to_bytes(4, "little") + body)
    with pytest.raises(LaterFormatError):
        open_snapshot(store, "snapshot")


def test_a_damaged_snapshot_is_done_without() -> None:
    store, log, damaged, data = written()
    log.append(entries(1, "v"))
    store.put(damaged.name, data[:-1])
    snapshot = CommitLog(store, "other").write_snapshot({"w": 3})
    assert held(snapshot) == [*names(1, "v"), *names(3)]
    store.put(damaged.name, b"")
    assert CommitLog(store, "w").latest_snapshot() == snapshot


def test_a_store_without_snapshots() -> None:
    store = MemoryStore()
    store.put(f"{SNAPSHOT_PREFIX}readme", b"not a snapshot")
    assert CommitLog(store, "w").latest_snapshot() is None
    with pytest.raises(ObjectNotFoundError):
        open_snapshot(store, f"{SNAPSHOT_PREFIX}w/000/000/000/001")


# -- trimming -------------------------------------------------------------------------------------


def logged(store: MemoryStore, writer: str) -> list[int]:
    return list(CommitLog(store, "reader").sequences(writer, 0))


def test_trimming_keeps_two_snapshots_and_what_follows_the_older() -> None:
    store = MemoryStore()
    log, other = CommitLog(store, "a"), CommitLog(store, "b")
    for _ in range(4):
        log.append()
        other.append()
    snapshots = [log.write_snapshot({"a": a, "b": b}) for a, b in ((1, 0), (2, 2), (4, 3))]
    assert log.trim() == 1 + 2 + 2
    assert logged(store, "a") == [3, 4]
    assert logged(store, "b") == [3, 4]
    assert log.usable_snapshots() == snapshots[:0:-1]
    assert log.trim() == 0


def test_one_snapshot_is_too_few_to_trim() -> None:
    store = MemoryStore()
    log = CommitLog(store, "w")
    log.append()
    log.write_snapshot({"w": 1})
    assert log.trim() == 0
    assert logged(store, "w") == [1]


def test_the_last_record_stays() -> None:
    store = MemoryStore()
    log = CommitLog(store, "w")
    for position in (1, 2, 3):
        log.append()
        log.write_snapshot({"w": position})
    log.write_snapshot({"w": 3, "x": 1})
    log.trim()
    assert logged(store, "w") == [3]
    assert CommitLog(store, "w").append().sequence == 4


def test_a_snapshot_from_before_trimming_is_not_started_from() -> None:
    store = MemoryStore()
    log = CommitLog(store, "a")
    for _ in range(9):
        log.append()
    slow = CommitLog(store, "slow")
    for _ in range(20):
        slow.append()
    good = [log.write_snapshot({"a": 5}), log.write_snapshot({"a": 9})]
    # Begun before the others were there, and finished after the log was trimmed.
    with store.upload(f"{SNAPSHOT_PREFIX}slow/000/000/000/020") as upload:
        SnapshotWriter(upload, {"slow": 20}).finish(())
        log.trim()
        upload.publish()
    assert logged(store, "a") == [6, 7, 8, 9]
    assert log.usable_snapshots() == good[::-1]
    assert log.latest_snapshot() == good[1]


class Interrupted(MemoryStore):
    """Something happens before the next record is read."""

    def __init__(self) -> None:
        super().__init__()
        self.happens: list[Callable[[], object]] = []

    def get(self, name: str) -> bytes:
        if name.startswith(LOG_PREFIX) and self.happens:
            self.happens.pop()()
        return super().get(name)


def test_a_snapshot_that_others_overtook_is_not_written() -> None:
    store = Interrupted()
    log = CommitLog(store, "a")
    for _ in range(6):
        log.append()

    def others() -> None:
        log.write_snapshot({"a": 3})
        log.write_snapshot({"a": 5})
        log.trim()

    store.happens = [others]
    with pytest.raises(LogTrimmedError):
        CommitLog(store, "b").write_snapshot({"a": 6})
    assert CommitLog(store, "b").write_snapshot({"a": 6}).positions == {"a": 6}


def test_records_that_were_lost_are_taken_for_empty() -> None:
    store = MemoryStore()
    log = CommitLog(store, "w")
    for entry in entries(4):
        log.append([entry])
    store.delete(log_name("w", 2))
    store.delete(log_name("w", 3))
    assert held(log.write_snapshot({"w": 4})) == [segment_name("w", 1), segment_name("w", 4)]
