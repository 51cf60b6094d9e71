"""Following logs into catalogs: several writers, snapshots, trimming, damage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from objectcache.catalog import Catalog, Follower
from objectcache.catalog.environment import SEGMENTS
from objectcache.catalog.follower import publish_namespace, read_namespace
from objectcache.catalog.records import pack_id
from objectcache.errors import IntegrityError, LayoutError, ObjectNotFoundError, StoreUnavailableError
from objectcache.integrity import Buffer
from objectcache.logrecord import CommitEntry, Replacement
from objectcache.names import SNAPSHOT_PREFIX, log_name, namespace_name
from objectcache.stores import MemoryStore, ObjectInfo, ObjectReader
from tests.catalog.world import Segments, chain_of, content, namespace_of, simple_layout

NAMESPACE = namespace_of(simple_layout())
CHAIN = chain_of(NAMESPACE, "abcdefghijklmnop")


class Gateways:
    """Catalogs that follow one store."""

    def __init__(self, store: MemoryStore, folder: Path, stack: ExitStack) -> None:
        self.store = store
        self._folder = folder
        self._stack = stack

    def open(self, name: str) -> tuple[Catalog, Follower]:
        catalog = self._stack.enter_context(Catalog.open(self._folder / name))
        return catalog, Follower(self.store, catalog)

    def rebuilt(self, name: str = "rebuilt") -> dict[str, object]:
        """What a catalog holds that starts from nothing."""
        catalog, follower = self.open(name)
        follower.poll()
        return content(catalog)


@pytest.fixture
def gateways(tmp_path: Path) -> Iterator[Gateways]:
    with ExitStack() as stack:
        yield Gateways(MemoryStore(), tmp_path, stack)


def entry(catalog: Catalog, first: int, stop: int) -> CommitEntry:
    return Segments(NAMESPACE).entry(CHAIN, first, stop, name=catalog.next_segment_name())


def found(catalog: Catalog) -> list[tuple[int, int]]:
    return [(run.first, run.stop) for run in catalog.match_part(CHAIN, 0, 0)]


def test_one_gateway_sees_what_others_commit(gateways: Gateways) -> None:
    a, follow_a = gateways.open("a")
    b, follow_b = gateways.open("b")
    follow_a.append([entry(a, 0, 4)])
    assert (found(a), found(b)) == ([(0, 4)], [])
    assert follow_b.poll() == 1
    follow_b.append([entry(b, 4, 8)])
    assert follow_a.poll() == 1
    follow_a.append([entry(a, 8, 16)])
    assert follow_b.poll() == 1
    assert found(a) == found(b) == [(0, 4), (0, 4), (0, 8)]
    assert follow_a.poll() == follow_b.poll() == 0
    assert content(a) == content(b) == gateways.rebuilt()


def test_an_upload_without_a_commit_is_invisible(gateways: Gateways) -> None:
    a, follow = gateways.open("a")
    gateways.store.put(a.next_segment_name(), b"a segment")
    assert follow.poll() == 0
    assert found(a) == []


def test_removals_reach_everybody(gateways: Gateways) -> None:
    a, follow_a = gateways.open("a")
    b, follow_b = gateways.open("b")
    first, second, merged = entry(a, 0, 4), entry(a, 4, 8), entry(b, 0, 8)
    follow_a.append([first, second])
    follow_b.poll()
    follow_b.append([merged], replaces=[Replacement((first.name, second.name), (merged.name,))])
    follow_a.poll()
    assert found(a) == found(b) == [(0, 8)]
    follow_a.append(deletes=[merged.name])
    assert follow_b.poll() == 1
    assert found(a) == found(b) == []
    assert gateways.rebuilt() == content(a) == content(b)


def test_the_order_in_which_logs_are_read_does_not_matter(gateways: Gateways) -> None:
    """Logs are read by name, so that of two writers one's removals are always read before the other's commits."""
    a, follow_a = gateways.open("a")
    b, follow_b = gateways.open("b")
    for one, follow_one, follow_other in ((a, follow_a, follow_b), (b, follow_b, follow_a)):
        kept, gone = entry(one, 0, 4), entry(one, 0, 8)
        follow_one.append([kept, gone])
        follow_other.poll()
        follow_other.append(deletes=[gone.name])
        follow_one.poll()
    assert a.stats().segments == 2
    assert content(a) == content(b) == gateways.rebuilt()


def test_a_removal_waits_in_a_snapshot_for_its_commit(gateways: Gateways) -> None:
    a, follow_a = gateways.open("a")
    b, follow_b = gateways.open("b")
    gone = entry(a, 0, 4)
    follow_a.append([gone])
    follow_b.poll()
    follow_b.append(deletes=[gone.name])
    follow_b.log.write_snapshot({b.writer_id: 1})  # which does not have the commit
    late, follow_late = gateways.open("late")
    assert follow_late.poll() == 1
    follow_a.poll()
    assert found(late) == []
    assert content(late) == content(a)


def test_a_gateway_that_starts_late_begins_with_the_snapshot(gateways: Gateways) -> None:
    a, follow = gateways.open("a")
    for first in range(0, 16, 2):
        follow.append([entry(a, first, first + 2)])
        follow.snapshot()
    assert list(follow.log.sequences(a.writer_id, 0)) == [8]
    assert gateways.rebuilt() == content(a)
    follow.append(deletes=[next(a.segments()).name])
    assert gateways.rebuilt("another") == content(a)


def test_a_gateway_that_was_away_too_long_starts_over(gateways: Gateways) -> None:
    a, follow_a = gateways.open("a")
    b, follow_b = gateways.open("b")
    follow_a.append([entry(a, 0, 4)])
    follow_b.poll()
    follow_a.append(deletes=[next(a.segments()).name])
    for first in range(4):
        follow_a.append([entry(a, 0, first + 1)])
        follow_a.snapshot()
    assert follow_b.poll() == 0  # all of it is in the snapshot
    assert content(a) == content(b)
    follow_a.append([entry(a, 0, 16)])
    assert follow_b.poll() == 1
    assert content(a) == content(b)


def test_a_damaged_snapshot_is_done_without(gateways: Gateways) -> None:
    a, follow = gateways.open("a")
    for first in range(4):
        follow.append([entry(a, first, first + 1)])
        follow.snapshot()
    newest = follow.log.usable_snapshots()[0]
    data = gateways.store.get(newest.name)
    for damaged in (data[:-1], data[:40]):
        gateways.store.put(newest.name, damaged)
        assert gateways.rebuilt(f"{len(damaged)}") == content(a)


def test_without_any_snapshot_that_can_be_read_what_is_left_is_followed(gateways: Gateways) -> None:
    a, follow = gateways.open("a")
    for first in range(4):
        follow.append([entry(a, first, first + 1)])
        follow.snapshot()
    for snapshot in follow.log.usable_snapshots():
        gateways.store.put(snapshot.name, gateways.store.get(snapshot.name)[:-1])
    b, follow_b = gateways.open("b")
    for _ in range(20):
        follow_b.poll()
    assert b.positions() == a.positions()
    assert b.stats().segments == 1
    follow.append([entry(a, 0, 4)])
    follow_b.poll()
    assert found(b) == [(0, 4)]


def test_a_damaged_catalog_is_built_anew(gateways: Gateways) -> None:
    a, follow = gateways.open("a")
    follow.append([entry(a, 0, 4), entry(a, 4, 8)])
    before = content(a)
    environment = a._environment
    environment.write(lambda transaction: transaction.put(pack_id(1), b"\xc1", db=environment.db(SEGMENTS)))
    a._records.clear()
    with pytest.raises(Exception, match="malformed"):
        a.match_part(CHAIN, 0, 0)
    assert follow.poll() == 1
    assert content(a) == before


class FailsOn(MemoryStore):
    """Reading what is named like this fails."""

    prefix = "nothing"

    def open(self, name: str, *, size_bytes: int | None = None) -> ObjectReader:
        if name.startswith(self.prefix):
            raise StoreUnavailableError("not now")
        return super().open(name)

    def get(self, name: str) -> bytes:
        with self.open(name) as reader:
            return reader.read(0, reader.info.size_bytes)


def test_a_store_that_fails_is_asked_again(tmp_path: Path) -> None:
    store = FailsOn()
    with ExitStack() as stack:
        gateways = Gateways(store, tmp_path, stack)
        a, follow_a = gateways.open("a")
        for stop in (4, 8, 12):
            follow_a.append([entry(a, 0, stop)])
            if stop < 12:
                follow_a.snapshot()
        b, follow_b = gateways.open("b")
        for prefix in (SNAPSHOT_PREFIX, log_name(a.writer_id, 3)):
            store.prefix = prefix
            with pytest.raises(StoreUnavailableError):
                follow_b.poll()
        store.prefix = "nothing"
        assert follow_b.poll() == 1
        assert content(a) == content(b)


def test_a_snapshot_that_ends_early_is_no_catalog(tmp_path: Path) -> None:
    """The store fails in the middle of it: the next poll begins anew."""
    store = MemoryStore()
    with ExitStack() as stack:
        gateways = Gateways(store, tmp_path, stack)
        a, follow_a = gateways.open("a")
        follow_a.append([entry(a, 0, 4)])
        snapshot = follow_a.snapshot()
        b, follow_b = gateways.open("b")
        whole = store.get(snapshot.name)
        store.put(snapshot.name, whole[:-1])
        with pytest.raises(IntegrityError):
            b.restore(snapshot)
        assert b.damaged
        store.put(snapshot.name, whole)
        follow_b.poll()
        assert content(a) == content(b)


# -- appending --------------------------------------------------------------------------------------


class LosesAnswers(MemoryStore):
    """Stores the next record, and says that it could not."""

    loses = False

    def put(self, name: str, data: Buffer, **options: Any) -> ObjectInfo:
        info = super().put(name, data, **options)
        if self.loses:
            self.loses = False
            raise StoreUnavailableError("no answer")
        return info


def test_a_commit_whose_answer_was_lost_is_seen_in_the_end(tmp_path: Path) -> None:
    store = LosesAnswers()
    with ExitStack() as stack:
        gateways = Gateways(store, tmp_path, stack)
        a, follow = gateways.open("a")
        store.loses = True
        with pytest.raises(StoreUnavailableError):
            follow.append([entry(a, 0, 4)])
        assert found(a) == []
        follow.append([entry(a, 4, 8)])
        assert found(a) == [(0, 4), (0, 4)]
        assert gateways.rebuilt() == content(a)


def test_threads_append_to_one_log(gateways: Gateways) -> None:
    a, follow = gateways.open("a")

    def append() -> None:
        for _ in range(20):
            name = a.next_segment_name()
            follow.append([Segments(NAMESPACE).entry(CHAIN, 0, 4, name=name)])
            assert a.segment_named(name) is not None  # visible at once

    threads = [Thread(target=append) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert a.stats().segments == 80
    assert gateways.rebuilt() == content(a)


def test_what_cannot_be_a_record_changes_nothing(gateways: Gateways) -> None:
    a, follow = gateways.open("a")
    same = entry(a, 0, 4)
    with pytest.raises(LayoutError):
        follow.append([same, same])
    assert follow.append([same]).sequence == 1
    assert found(a) == [(0, 4)]


# -- namespaces -------------------------------------------------------------------------------------


def test_namespaces_are_read_when_their_first_segment_is_seen(gateways: Gateways) -> None:
    a, follow_a = gateways.open("a")
    b, follow_b = gateways.open("b")
    follow_a.append([entry(a, 0, 4)])
    follow_b.poll()
    assert b.namespaces() == []
    publish_namespace(gateways.store, NAMESPACE)
    publish_namespace(gateways.store, NAMESPACE)
    follow_a.append([entry(a, 4, 8)])
    follow_b.poll()
    assert b.namespaces() == [NAMESPACE]


def test_a_namespace_is_what_its_name_says(gateways: Gateways) -> None:
    store = gateways.store
    with pytest.raises(ObjectNotFoundError):
        read_namespace(store, NAMESPACE.digest)
    publish_namespace(store, NAMESPACE)
    assert read_namespace(store, NAMESPACE.digest) == NAMESPACE
    for data in (b"{}", b"\xff", namespace_of(simple_layout(2)).to_json()):
        store.put(namespace_name(NAMESPACE.digest), data)
        with pytest.raises(IntegrityError):
            read_namespace(store, NAMESPACE.digest)
