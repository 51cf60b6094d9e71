"""Turns: how much of a delivery goes out in one go, and receiving large pieces without a wake-up for every packet."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectcache.delivery import Delivery
from objectcache.errors import GatewayUnavailableError
from objectcache.frames import MAX_FRAME_BYTES
from objectcache.layout import DeliveryGeometry, PartShape
from objectcache.stores import FileStore, MemoryStore, ReadCache, Store
from objectcache.transports.active import ActiveDelivery, ReadySpan
from objectcache.transports.dealing import Portion
from objectcache.transports.sockets import WAKE_BYTES, PieceReceiver
from objectcache.transports.source import LEAST_TURN_BYTES, MAX_TURN_BYTES, spans_of, turn_bytes
from objectcache.transports.tapering import Tapering
from objectcache.workers.open_objects import OpenObjects
from tests.stores.counting import CountingStore
from tests.transports.sending import PATIENCE_S, open_session, store_prefix

MIB = 1 << 20


@contextmanager
def prepared(
    store: Store, *, credit_bytes: int = 0, tapering: Tapering | None = None, **shape: int
) -> Iterator[ActiveDelivery]:
    """A delivery of which all spans are ready."""
    prefix = store_prefix(store, 1, **shape)
    held = OpenObjects().hold(store, prefix.plan.segment_bytes)
    state = Delivery(streams=1, credit_bytes=credit_bytes, deadline_s=time.monotonic() + PATIENCE_S)
    found = spans_of(prefix.plan, held.readers, 1, 0)
    active = ActiveDelivery(1, 0, state, found, lambda error: None, turn_bytes=8 * MIB, tapering=tapering)
    spans = []
    while (frames := active.next_span()) is not None:
        spans.append(ReadySpan(frames))
    active.offer(spans, last=True)
    yield active
    held.release()


def test_a_turn_is_what_comes_next_up_to_its_limit() -> None:
    with prepared(MemoryStore(), segments=2, chunks=40, layers=2, slice_bytes=MIB // 8) as active:
        turns = []
        while active.peek(0) is not None:
            turns.append(active.take_turn(0, 3 * MIB))
        # 40 slices are 5 pieces, and there are 4 times 40: three pieces are within the limit.
        frames = [[outgoing for stretch in turn.stretches for outgoing in stretch.frames] for turn in turns]
        assert [len(taken) for taken in frames] == [3] * 6 + [2]
        layers = [outgoing.frame.layer for taken in frames for outgoing in taken]
        assert layers == sorted(layers)
        assert [len(turn.stretches) for turn in turns] == [1, 2, 1, 2, 1, 1, 1]
        for turn, taken in zip(turns, frames, strict=True):
            assert turn.wire_bytes == sum(outgoing.wire_bytes for outgoing in taken)
            assert turn.data_bytes <= 3 * MIB
            for stretch in turn.stretches:
                assert stretch.data_bytes == sum(outgoing.frame.data_bytes for outgoing in stretch.frames)
                for before, after in zip(stretch.frames, stretch.frames[1:], strict=False):
                    assert after.reader is before.reader
                    assert after.offset == before.offset + before.frame.data_bytes


def test_a_turn_has_one_frame_at_least() -> None:
    with prepared(MemoryStore(), segments=1, chunks=40, layers=1, slice_bytes=MIB // 8) as active:
        turns = [active.take_turn(0, limit) for limit in (0, 1, MIB)]
        assert [len(turn.stretches[0].frames) for turn in turns] == [1, 1, 1]


def test_a_turn_is_within_credit_with_its_headers() -> None:
    with prepared(MemoryStore(), segments=1, chunks=40, layers=1, slice_bytes=MIB // 8, credit_bytes=3 * MIB) as active:
        assert active.take_turn(0, 4 * MIB).data_bytes == 2 * MIB


def test_turns_are_shorter_towards_the_end_of_each_layer() -> None:
    tapering = Tapering([20 * MIB, 20 * MIB], 2)
    with prepared(MemoryStore(), segments=2, chunks=80, layers=2, slice_bytes=MIB // 8, tapering=tapering) as active:
        sizes = [active.take_turn(0, active.most_bytes(8 * MIB)).data_bytes // MIB for _ in range(12)]
        # Half of what is left: of 20, of the 10 after the first turn, and so on.
        assert sizes == [8, 6, 3, 1, 1, 1] * 2


@given(st.lists(st.integers(1, 1000), max_size=8), st.integers(1, 12))
def test_no_turn_is_more_than_its_share_of_what_is_left(layers: list[int], streams: int) -> None:
    tapering = Tapering(layers, streams)
    for layer_bytes in layers:
        left = layer_bytes
        while left > 0:
            assert tapering.most_bytes == left / streams
            taken = min(max(1, int(tapering.most_bytes)), left)
            tapering.take(taken)
            left -= taken
    assert tapering.most_bytes == inf, "nothing waits for the last turn"


class TwoStreams:
    """Geometry enough for a plan."""

    def __init__(self, layer_bytes: int) -> None:
        self.geometry = DeliveryGeometry((PartShape((0, 1), (layer_bytes, layer_bytes), 1),), 1)


@pytest.mark.parametrize(
    ("layer_bytes", "expected"),
    [(64 << 10, MAX_FRAME_BYTES), (4 * MIB, 2 * MIB), (64 * MIB, MAX_TURN_BYTES)],
)
def test_every_stream_has_a_part_of_each_layer(layer_bytes: int, expected: int) -> None:
    assert turn_bytes(TwoStreams(layer_bytes), Portion(2)) == expected  # type: ignore[arg-type]


def test_where_several_send_turns_are_shorter() -> None:
    plan = TwoStreams(64 * MIB)
    found = [turn_bytes(plan, Portion(8, carriers)) for carriers in (1, 2, 3, 8)]  # type: ignore[arg-type]
    assert found == [MAX_TURN_BYTES, MAX_TURN_BYTES // 2, LEAST_TURN_BYTES, LEAST_TURN_BYTES]
    assert LEAST_TURN_BYTES >= 2 * MAX_FRAME_BYTES, "some of the interpreter's time is saved"


@pytest.mark.parametrize("kind", ["files", "memory", "cached"])
def test_turns_deliver_every_byte(tmp_path_factory: pytest.TempPathFactory, kind: str) -> None:
    """Also where a turn lies in several files, which frames do not end with."""
    root = tmp_path_factory.mktemp("turns")
    origin: Store = MemoryStore() if kind == "memory" else FileStore(root / "origin")
    prefix = store_prefix(origin, 1, segments=2, chunks=40, layers=3, slice_bytes=MIB // 8)
    store = ReadCache(CountingStore(origin), root / "cache", extent_bytes=700_000) if kind == "cached" else origin
    with open_session(2) as session:
        for _ in range(3):  # from the second on, the streams' rates are known
            number = session.deliver(store, prefix, turn=MAX_TURN_BYTES)
            assert session.wait(number) is None
            assert session.received[number].whole(prefix)


def test_credit_bounds_a_turn() -> None:
    state = Delivery(streams=1, credit_bytes=5 * MIB, deadline_s=1.0)
    state.claim(MIB)
    state.begin(0, 2 * MIB)
    assert state.within_credit(4 * MIB) == 2 * MIB
    assert Delivery(streams=1, credit_bytes=0, deadline_s=1.0).within_credit(4 * MIB) == 4 * MIB


# -- receiving ----------------------------------------------------------------------------------------


@contextmanager
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as mine,
        listener.accept()[0] as theirs,
    ):
        yield mine, theirs


SIZES = st.lists(st.sampled_from([1, 64, 5000, 65_537, WAKE_BYTES - 1, WAKE_BYTES, WAKE_BYTES + 1, 1_300_000]))


@settings(max_examples=15, deadline=None)
@given(sizes=SIZES, sent_bytes=st.sampled_from([999, 100_000, 3_000_000]))
def test_pieces_of_all_sizes_arrive_however_they_are_sent(sizes: list[int], sent_bytes: int) -> None:
    """And each as soon as its own bytes are there: nothing follows the last of them."""
    total = bytes(range(251)) * (sum(sizes) // 251 + 1)
    total = total[: sum(sizes)]
    with connection() as (mine, theirs):

        def send() -> None:
            for at in range(0, len(total), max(sent_bytes, len(total) // 200)):
                theirs.sendall(total[at : at + max(sent_bytes, len(total) // 200)])

        sender = threading.Thread(target=send)
        sender.start()
        receive, at = PieceReceiver(mine), 0
        for size in sizes:
            out = bytearray(size)
            receive(memoryview(out))
            assert out == total[at : at + size]
            at += size
        sender.join(PATIENCE_S)


def test_a_piece_that_comes_in_two_halves_with_a_pause_is_awaited() -> None:
    with connection() as (mine, theirs):
        threading.Timer(0.05, theirs.sendall, [b"b" * (WAKE_BYTES - 10)]).start()
        theirs.sendall(b"a" * (WAKE_BYTES + 10))
        out = bytearray(2 * WAKE_BYTES)
        PieceReceiver(mine)(memoryview(out))
        assert bytes(out) == b"a" * (WAKE_BYTES + 10) + b"b" * (WAKE_BYTES - 10)


@pytest.mark.parametrize("arrived", [0, 1000, WAKE_BYTES + 1])
def test_a_connection_that_ends_in_a_piece_is_noticed(arrived: int) -> None:
    with connection() as (mine, theirs):
        theirs.sendall(bytes(arrived))
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(GatewayUnavailableError):
            PieceReceiver(mine)(memoryview(bytearray(MIB)))


def test_cutting_a_connection_wakes_who_waits_for_a_piece() -> None:
    with connection() as (mine, theirs):
        theirs.sendall(b"x")
        threading.Timer(0.05, mine.shutdown, [socket.SHUT_RDWR]).start()
        with pytest.raises(GatewayUnavailableError):
            PieceReceiver(mine)(memoryview(bytearray(MIB)))
