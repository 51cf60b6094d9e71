"""The thread that brings a delivery begins it: its first head leaves at once, and what goes wrong there is told."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from objectcache.delivery import Delivery
from objectcache.errors import DeliveryError, ObjectCacheError
from objectcache.frames import FRAME_HEADER_BYTES, FrameType, decode_frame
from objectcache.layout import DIGEST_BYTES
from objectcache.stores import MemoryStore
from objectcache.transports import ActiveDelivery, SenderSession
from objectcache.transports.pacing import LEAST_STEP_BYTES, Pace
from objectcache.transports.sockets import recv_exact
from objectcache.transports.source import spans_of
from objectcache.workers.open_objects import OpenObjects
from tests.gateway.process import eventually
from tests.transports.sending import PATIENCE_S, StoredPrefix, store_prefix


@pytest.fixture
def prefix() -> tuple[MemoryStore, StoredPrefix]:
    store = MemoryStore()
    return store, store_prefix(store, 1, segments=2, chunks=4, layers=2, slice_bytes=1000)


class Ended:
    """What a delivery ended with."""

    def __init__(self) -> None:
        self.errors: list[ObjectCacheError | None] = []
        self._told = threading.Event()

    def __call__(self, error: ObjectCacheError | None) -> None:
        self.errors.append(error)
        self._told.set()

    def wait(self) -> ObjectCacheError | None:
        assert self._told.wait(PATIENCE_S)
        (error,) = self.errors
        return error


def active_of(
    store: MemoryStore, prefix: StoredPrefix, streams: int, ended: Ended, pace: Pace | None = None
) -> ActiveDelivery:
    held = OpenObjects().hold(store, prefix.plan.segment_bytes)
    state = Delivery(streams=streams, credit_bytes=0, deadline_s=time.monotonic() + PATIENCE_S)
    return ActiveDelivery(1, 0, state, spans_of(prefix.plan, held.readers, 1, 0), ended, pace=pace)


def frames_of(sock: socket.socket) -> Iterator[FrameType]:
    """Up to the last word."""
    head = memoryview(bytearray(FRAME_HEADER_BYTES))
    while True:
        recv_exact(sock, head)
        frame = decode_frame(head)
        recv_exact(sock, memoryview(bytearray(frame.extra * DIGEST_BYTES + frame.data_bytes)))
        yield frame.type
        if frame.type is not FrameType.DATA:
            return


def test_nothing_leaves_before_the_caller_begins_it(prefix: tuple[MemoryStore, StoredPrefix]) -> None:
    mine, theirs = socket.socketpair()
    with mine:
        session, ended = SenderSession(1), Ended()
        assert session.attach(0, theirs)
        rest = session.begin(active_of(*prefix, 1, ended))
        assert rest is not None
        mine.settimeout(0.1)
        with pytest.raises(TimeoutError):
            mine.recv(1)
        mine.settimeout(None)
        rest()
        assert list(frames_of(mine))[-1] is FrameType.END
        assert ended.wait() is None
        session.close()


def test_beside_another_delivery_nobody_has_to_begin(prefix: tuple[MemoryStore, StoredPrefix]) -> None:
    mine, theirs = socket.socketpair()
    with mine:
        session, first, second = SenderSession(1), Ended(), Ended()
        assert session.attach(0, theirs)
        rest = session.begin(active_of(*prefix, 1, first))
        assert rest is not None
        assert session.begin(active_of(*prefix, 1, second)) is None
        rest()
        words = [word for _ in range(2) for word in frames_of(mine)]
        assert words.count(FrameType.END) == 2
        assert (first.wait(), second.wait()) == (None, None)
        session.close()


@pytest.mark.parametrize("streams", [1, 2])
def test_a_client_that_is_gone_ends_the_session(prefix: tuple[MemoryStore, StoredPrefix], streams: int) -> None:
    lost, ended = threading.Event(), Ended()
    session = SenderSession(streams, lost.set)
    ends = [socket.socketpair() for _ in range(streams)]
    for stream, (_, theirs) in enumerate(ends):
        assert session.attach(stream, theirs)
    rest = session.begin(active_of(*prefix, streams, ended))
    assert rest is not None
    for mine, _ in ends:
        mine.close()
    rest()
    assert isinstance(ended.wait(), DeliveryError)
    assert lost.wait(PATIENCE_S)


def test_a_session_that_is_closed_meanwhile(prefix: tuple[MemoryStore, StoredPrefix]) -> None:
    lost, ended = threading.Event(), Ended()
    session = SenderSession(1, lost.set)
    mine, theirs = socket.socketpair()
    with mine:
        assert session.attach(0, theirs)
        rest = session.begin(active_of(*prefix, 1, ended))
        assert rest is not None
        session.close()
        assert not lost.is_set()  # its stream is in use
        rest()
        assert isinstance(ended.wait(), DeliveryError)
        assert lost.wait(PATIENCE_S)


def test_a_cancel_before_it_begins(prefix: tuple[MemoryStore, StoredPrefix]) -> None:
    mine, theirs = socket.socketpair()
    with mine:
        session, ended = SenderSession(1), Ended()
        assert session.attach(0, theirs)
        rest = session.begin(active_of(*prefix, 1, ended))
        assert rest is not None
        assert session.cancel(1, 0, PATIENCE_S)
        rest()
        assert list(frames_of(mine)) == [FrameType.CANCELLED]
        session.close()


class Rate:
    """What a delivery goes by, and what it says that it has taken."""

    def __init__(self, bytes_s: float) -> None:
        self.bytes_s = bytes_s
        self.taken_bytes = 0
        self.pace = Pace(lambda: self.bytes_s, self._report)

    def _report(self, total_bytes: int) -> None:
        self.taken_bytes = total_bytes


def test_at_a_rate_no_more_than_a_step_is_sent_by_who_begins_it() -> None:
    store = MemoryStore()
    prefix = store_prefix(store, 1, segments=1, chunks=4, layers=1, slice_bytes=LEAST_STEP_BYTES)
    mine, theirs = socket.socketpair()
    with mine:
        mine.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        session, ended, rate = SenderSession(1), Ended(), Rate(1.0)  # a step takes a day
        assert session.attach(0, theirs)
        rest = session.begin(active_of(store, prefix, 1, ended, rate.pace))
        assert rest is not None
        assert rate.taken_bytes == 0
        rest()
        assert rate.taken_bytes == LEAST_STEP_BYTES
        head = memoryview(bytearray(FRAME_HEADER_BYTES))
        recv_exact(mine, head)
        assert decode_frame(head).data_bytes == LEAST_STEP_BYTES
        session.close()
        assert isinstance(ended.wait(), DeliveryError)


@pytest.mark.parametrize("streams", [1, 3])
def test_nothing_is_sent_of_what_is_paused_and_its_streams_wait_for_a_rate(
    prefix: tuple[MemoryStore, StoredPrefix], streams: int
) -> None:
    session, ended, rate = SenderSession(streams), Ended(), Rate(0.0)
    ends = [socket.socketpair() for _ in range(streams)]
    for stream, (_, theirs) in enumerate(ends):
        assert session.attach(stream, theirs)
    rest = session.begin(active_of(*prefix, streams, ended, rate.pace))
    assert rest is not None
    rest()
    assert rate.taken_bytes == 0
    for mine, _ in ends:
        with pytest.raises(BlockingIOError):
            mine.recv(1, socket.MSG_DONTWAIT)
    rate.bytes_s = 1e9
    assert [list(frames_of(mine))[-1] for mine, _ in ends] == [FrameType.END] * streams
    assert ended.wait() is None
    assert rate.taken_bytes == sum(map(len, prefix[1].layers))
    session.close()
    for mine, _ in ends:
        mine.close()


def test_while_who_begins_it_is_stuck_streams_go_on_waking_each_other() -> None:
    """Of the streams one looks at the clock; one that somebody else uses must not be taken for the next."""
    store = MemoryStore()
    prefix = store_prefix(store, 1, segments=1, chunks=64, layers=1, slice_bytes=1 << 20)
    session, ended, rate = SenderSession(4), Ended(), Rate(2e9)
    ends = [socket.socketpair() for _ in range(4)]
    for stream, (_, theirs) in enumerate(ends):
        assert session.attach(stream, theirs)
    rest = session.begin(active_of(store, prefix, 4, ended, rate.pace))
    assert rest is not None
    beginner = threading.Thread(target=rest, daemon=True)
    beginner.start()
    received = [0]

    def read() -> None:
        mine = ends[3][0]
        while data := mine.recv(1 << 20):
            received[0] += len(data)

    reader = threading.Thread(target=read, daemon=True)  # of the last only: the others are stuck in their first turns
    reader.start()
    try:
        eventually(lambda: received[0] > 50 << 20, "one stream sends nearly all")
        assert beginner.is_alive()
    finally:
        session.close()
    assert isinstance(ended.wait(), DeliveryError)
    beginner.join(PATIENCE_S)
    reader.join(PATIENCE_S)
    assert not beginner.is_alive()
    assert not reader.is_alive()
    for mine, _ in ends:
        mine.close()
