"""Sending from stores that are slow, far, broken or empty: what a delivery suffers, its neighbours do not notice."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event

import pytest

from objectcache.announcing import WINDOW_BYTES
from objectcache.errors import (
    DeliveryCancelledError,
    DeliveryTimeoutError,
    IntegrityError,
    SegmentGoneError,
    StoreError,
    StoreUnavailableError,
)
from objectcache.frames import FrameType
from objectcache.names import segment_name
from objectcache.stores import FileStore, MemoryStore, ObjectReader, ReadCache, Store
from objectcache.transports.active import READY_BYTES
from objectcache.transports.sender import SenderSession
from tests.stores.counting import CountingStore
from tests.transports.sending import PATIENCE_S, Session, StoredPrefix, open_session, store_prefix

SEGMENTS, CHUNKS, LAYERS, SLICE_BYTES = 3, 8, 4, 300_000


def stored(store: Store, seed: int = 1) -> StoredPrefix:
    return store_prefix(store, seed, segments=SEGMENTS, chunks=CHUNKS, layers=LAYERS, slice_bytes=SLICE_BYTES)


class NearStore(CountingStore):
    """Slow or broken as well, but the session is not told that it is far."""

    far = False


def eventually(condition: Callable[[], bool]) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.002)


@pytest.mark.parametrize("streams", [1, 2, 5])
@pytest.mark.parametrize("kind", ["files", "near", "far", "cached"])
def test_all_layers_arrive_in_order(tmp_path: Path, kind: str, streams: int) -> None:
    origin = FileStore(tmp_path / "origin")
    prefix = stored(origin)
    store: Store = origin
    if kind == "near":
        store = NearStore(origin, latency_s=0.001)
    elif kind == "far":
        store = CountingStore(origin, latency_s=0.001)
    elif kind == "cached":
        store = ReadCache(CountingStore(origin), tmp_path / "cache", extent_bytes=1 << 19)
    with open_session(streams) as session, store:
        for _ in range(2):
            number = session.deliver(store, prefix)
            assert session.wait(number) is None
            received = session.received[number]
            assert received.whole(prefix)
            assert received.last_words == [FrameType.END] * streams
            if streams == 1:
                assert received.order == sorted(received.order)
        assert not session.lost.is_set()


def test_a_slice_of_several_frames(tmp_path: Path) -> None:
    origin = MemoryStore()
    prefix = store_prefix(origin, 1, segments=2, chunks=2, layers=2, slice_bytes=(5 << 20) // 2)
    with open_session(2) as session:
        for store in (origin, CountingStore(origin)):
            number = session.deliver(store, prefix)
            assert session.wait(number) is None
            assert session.received[number].whole(prefix)


def test_nothing_is_asked_of_a_far_store_but_ranges() -> None:
    origin = MemoryStore()
    prefix = stored(origin)
    store = CountingStore(origin)

    def head(name: str) -> None:
        pytest.fail("the size is known")

    store.head = origin.head = head  # type: ignore[assignment, method-assign]
    with open_session(2) as session:
        assert session.wait(session.deliver(store, prefix)) is None
    assert sorted(store.opens) == prefix.plan.segments


@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize("streams", [1, 3])
def test_credit_is_used_up_and_never_passed(far: bool, streams: int) -> None:
    origin = MemoryStore()
    prefix = stored(origin)
    frame_bytes = 1_000_000
    with open_session(streams) as session:
        credit_bytes = 0
        store = CountingStore(origin, latency_s=0.001) if far else NearStore(origin, latency_s=0.001)
        number = session.deliver(store, prefix, credit_bytes=1)
        received = session.received[number]
        for more_bytes in (4_000_000, 1_500_000, 6_000_000):
            credit_bytes += more_bytes
            session.sender.grant(number, 0, credit_bytes)
            eventually(lambda: received.wire_bytes > credit_bytes - frame_bytes)  # noqa: B023
            time.sleep(0.02)
            assert received.wire_bytes <= credit_bytes
        session.sender.grant(number, 0, 1 << 40)
        assert session.wait(number) is None
        assert received.whole(prefix)


# -- stores that fail ---------------------------------------------------------------------------------


def place(offset: int, prefix: StoredPrefix) -> str:
    """What begins at `offset` of a segment, if it is of one of the last two layers."""
    geometry = prefix.plan.parts[0].runs[0].geometry
    if offset in {geometry.row_offset(position) for position in (2, 3)}:
        return "row"
    return "slices" if offset >= geometry.slice_offset(2, 0) else ""


@pytest.mark.parametrize("kind", [NearStore, CountingStore])
@pytest.mark.parametrize("where", ["row", "slices"])
@pytest.mark.parametrize("error", [StoreUnavailableError("down"), None])
def test_a_failing_read_fails_one_delivery(kind: type[CountingStore], where: str, error: StoreError | None) -> None:
    origin = MemoryStore()
    prefix = stored(origin)
    store, bad = kind(origin), segment_name("s1", 1)

    def fault(name: str, offset: int) -> StoreError | None:
        if name == bad and place(offset, prefix) == where:
            if error is None:
                origin.delete(name)
            return error
        return None

    store.fault = fault
    with open_session(2) as session:
        number = session.deliver(store, prefix)
        ended = session.wait(number)
        if error is None:
            assert isinstance(ended, SegmentGoneError)
            assert ended.segment == bad
        else:
            assert ended is error
        received = session.received[number]
        assert received.last_words == [FrameType.ERROR] * 2
        assert {type(told) for told in received.errors} == {type(ended)}
        assert bytes(received.layers[0]) == prefix.layers[0]
        again = stored(origin, 2)
        assert session.wait(session.deliver(store, again)) is None
        assert not session.lost.is_set()


@pytest.mark.parametrize("far", [False, True])
def test_a_segment_cut_short_fails_one_delivery(tmp_path: Path, far: bool) -> None:
    origin = FileStore(tmp_path)
    prefix = stored(origin)
    name = segment_name("s1", 2)
    data = origin.get(name)
    origin.put(name, data[: len(data) // 2])
    with open_session(2) as session:
        ended = session.wait(session.deliver(CountingStore(origin) if far else origin, prefix))
        assert isinstance(ended, IntegrityError)
        assert ended.segment == name
        assert session.wait(session.deliver(origin, stored(origin, 2))) is None


# -- stores that are slow -----------------------------------------------------------------------------


def _has_last_words(session: Session, number: int, count: int) -> bool:
    return len(session.received[number].last_words) == count


@pytest.mark.parametrize(("kind", "streams"), [(CountingStore, 1), (CountingStore, 3), (NearStore, 2)])
def test_a_store_that_hangs_holds_up_nobody_else(kind: type[CountingStore], streams: int) -> None:
    origin = MemoryStore()
    slow, fast = stored(origin, 1), stored(origin, 2)
    hanging = kind(origin)
    hanging.gate.clear()
    with open_session(streams) as session:
        stuck = session.deliver(hanging, slow)
        eventually(lambda: hanging.at_once > 0)
        for _ in range(3):
            number = session.deliver(origin, fast)
            if streams == 1 or kind is CountingStore:
                assert session.wait(number) is None
            else:  # the stream that waits for the store has still to say its last word
                eventually(partial(_has_last_words, session, number, streams - 1))
            assert session.received[number].whole(fast)
        hanging.gate.set()
        assert session.wait(stuck) is None
        assert session.received[stuck].whole(slow)


def test_a_delivery_that_waits_for_a_far_store_is_cancelled_at_once() -> None:
    origin = MemoryStore()
    prefix = stored(origin)
    hanging = CountingStore(origin)
    hanging.gate.clear()
    with open_session(2) as session:
        number = session.deliver(hanging, prefix)
        eventually(lambda: hanging.at_once > 0)
        assert session.sender.cancel(number, 0, 1.0)
        assert isinstance(session.wait(number), DeliveryCancelledError)
        hanging.gate.set()


@pytest.mark.parametrize("streams", [1, 2])
def test_a_frame_that_comes_to_hand_after_a_cancel_is_not_sent(streams: int) -> None:
    origin = MemoryStore()
    prefix = stored(origin)
    store = NearStore(origin)
    slices, waiting, go_on = prefix.plan.parts[0].runs[0].geometry.slice_offset(0, 0), Event(), Event()

    def stall(name: str, offset: int) -> None:
        if offset >= slices:
            waiting.set()
            go_on.wait(PATIENCE_S)

    store.fault = stall
    with open_session(streams) as session:
        number = session.deliver(store, prefix)
        assert waiting.wait(PATIENCE_S)
        assert session.sender.cancel(number, 0, 1.0), "nothing is being written"
        go_on.set()
        assert isinstance(session.wait(number), DeliveryCancelledError)
        assert session.received[number].order == []


def test_a_far_store_that_hangs_past_the_deadline() -> None:
    origin = MemoryStore()
    prefix = stored(origin)
    hanging = CountingStore(origin)
    hanging.gate.clear()
    with open_session(2) as session:
        ended = session.wait(session.deliver(hanging, prefix, deadline_s=0.2))
        assert isinstance(ended, DeliveryTimeoutError)
        hanging.gate.set()
        assert session.wait(session.deliver(origin, prefix)) is None


class HeldStore(CountingStore):
    """Counts the files that are held open."""

    held = most_held = 0

    def open(self, name: str, *, size_bytes: int | None = None) -> ObjectReader:
        reader, files = self._store.open(name), self._store.open(name).files

        @contextmanager
        def counted(offset: int, length: int):  # type: ignore[no-untyped-def]
            with files(offset, length) as ranges:
                self.held += 1
                self.most_held = max(self.most_held, self.held)
                try:
                    yield ranges
                finally:
                    self.held -= 1

        reader.files = counted  # type: ignore[method-assign]
        return reader


def test_what_is_at_hand_is_bounded_and_let_go(tmp_path: Path) -> None:
    origin = FileStore(tmp_path)
    prefix = store_prefix(origin, 1, segments=1, chunks=4, layers=40, slice_bytes=250_000)
    store = HeldStore(origin)
    session = Session(0)
    session.sender = SenderSession(1)  # its stream is never attached
    try:
        number = session.deliver(store, prefix)
        eventually(lambda: store.held >= READY_BYTES // 1_000_100)
        time.sleep(0.1)
        assert store.held <= READY_BYTES // 1_000_000 + 1
        session.sender.close()
        eventually(lambda: number in session.outcomes)
        eventually(lambda: store.held == 0)
    finally:
        session.close()


# -- reading ahead ------------------------------------------------------------------------------------


class AnnouncedStore(CountingStore):
    """Remembers what was announced, as (name, offset, length)."""

    announced: list[tuple[str, int, int]]

    def open(self, name: str, *, size_bytes: int | None = None) -> ObjectReader:
        reader = super().open(name, size_bytes=size_bytes)
        reader.prefetch = lambda offset, length: self.announced.append((name, offset, length))  # type: ignore[method-assign]
        return reader


def test_reads_are_announced_a_window_ahead_in_delivery_order() -> None:
    origin = MemoryStore()
    slice_bytes, layers = 1 << 20, 24
    prefix = store_prefix(origin, 1, segments=2, chunks=2, layers=layers, slice_bytes=slice_bytes)
    store = AnnouncedStore(origin)
    store.announced = []
    store.gate.clear()
    with open_session(2) as session:
        number = session.deliver(store, prefix)
        eventually(lambda: store.at_once > 0)
        announced_bytes = sum(length for _, _, length in store.announced)
        assert WINDOW_BYTES <= announced_bytes <= WINDOW_BYTES + (4 << 20)
        store.gate.set()
        assert session.wait(number) is None
    geometry = prefix.plan.parts[0].runs[0].geometry
    expected: list[tuple[str, int, int]] = []
    for position in range(layers):
        begin = geometry.row_offset(position)
        stop = geometry.slice_offset(position, 2)
        expected += [(name, begin, stop - begin) for name in prefix.plan.segments]
    assert store.announced == expected
    read = {(name, offset) for name, offset, _ in store.reads}
    assert all(
        any(name == other and begin <= offset < begin + length for other, begin, length in expected)
        for name, offset in read
    )


def test_a_read_cache_keeps_many_requests_under_way(tmp_path: Path) -> None:
    origin = MemoryStore()
    prefix = stored(origin)
    counting = CountingStore(origin, latency_s=0.02)
    with ReadCache(counting, tmp_path, extent_bytes=1 << 18) as cache, open_session(2) as session:
        assert session.wait(session.deliver(cache, prefix)) is None
        assert counting.most_at_once >= 12
        reads = len(counting.reads)
        assert len(set(counting.reads)) == reads, "nothing is fetched twice"
        assert session.wait(session.deliver(cache, prefix)) is None
        assert len(counting.reads) == reads
