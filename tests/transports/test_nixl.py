"""What of NIXL's transport needs no NIXL: notifications, the arena's slots, the line; and asking for it without."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.errors import DeliveryError, DeliveryTimeoutError
from objectcache.frames import FRAME_HEADER_BYTES, Frame, FrameType, error_frame
from objectcache.layout import DIGEST_BYTES
from objectcache.transports.nixl import (
    INSTALL,
    InOrder,
    Line,
    Notification,
    Slots,
    decode_notification,
    encode_notification,
)
from objectcache.transports.nixl.arena import SHARE
from objectcache.transports.nixl.notifications import HEAD_BYTES, MAX_EARLY

STREAMS = 4


# -- notifications ----------------------------------------------------------------------------------

frames = st.builds(
    Frame,
    st.just(FrameType.PLACED),
    delivery=st.integers(0, (1 << 64) - 1),
    epoch=st.integers(0, (1 << 32) - 1),
    extra=st.integers(0, 40),
    layer=st.integers(0, 0xFFFF),
    data_bytes=st.integers(0, (1 << 32) - 1),
    flags=st.integers(0, 0xFF),
    part=st.integers(0, 0xFFFF),
    first_chunk=st.integers(0, (1 << 32) - 1),
    num_chunks=st.integers(0, (1 << 32) - 1),
    span_offset=st.integers(0, (1 << 32) - 1),
    unit=st.integers(0, (1 << 32) - 1),
    digest=st.binary(min_size=DIGEST_BYTES, max_size=DIGEST_BYTES),
)


@given(frames, st.integers(0, STREAMS - 1), st.integers(0, (1 << 64) - 1), st.data())
def test_what_is_said_is_understood(frame: Frame, stream: int, number: int, data: st.DataObject) -> None:
    payload = data.draw(st.binary(min_size=frame.extra * DIGEST_BYTES, max_size=frame.extra * DIGEST_BYTES))
    said = encode_notification(stream, number, frame.encode() + payload)
    assert decode_notification(said, STREAMS) == Notification(stream, number, frame, payload)
    for wrong in (said[:-1], said + b"\0", b"OCN0" + said[4:], b""):
        with pytest.raises(DeliveryError):
            decode_notification(wrong, STREAMS)
    with pytest.raises(DeliveryError):
        decode_notification(said, stream)


@given(st.binary(max_size=HEAD_BYTES + FRAME_HEADER_BYTES + 64))
def test_noise_is_no_notification(noise: bytes) -> None:
    with pytest.raises(DeliveryError):
        decode_notification(noise, STREAMS)


def test_last_words() -> None:
    for kind in (FrameType.END, FrameType.CANCELLED):
        frame = Frame(kind, 7, 1)
        assert decode_notification(encode_notification(0, 0, frame.encode()), 1) == Notification(0, 0, frame, b"")
    said = encode_notification(0, 1, error_frame(7, 1, DeliveryTimeoutError("late")))
    found = decode_notification(said, 1)
    assert found.frame.type is FrameType.ERROR
    assert len(found.payload) == found.frame.data_bytes > 0


@pytest.mark.parametrize("kind", [FrameType.DATA, FrameType.CREDIT, FrameType.HELLO])
def test_other_frames_are_not_taken(kind: FrameType) -> None:
    with pytest.raises(DeliveryError):
        decode_notification(encode_notification(0, 0, Frame(kind, 7, 1).encode()), 1)


def numbered(stream: int, number: int) -> Notification:
    return Notification(stream, number, Frame(FrameType.END, number, 0), b"")


@given(st.lists(st.integers(0, STREAMS - 1), max_size=60).flatmap(lambda streams: st.permutations(streams)), st.data())
def test_they_are_taken_in_order_however_they_come(streams: list[int], data: st.DataObject) -> None:
    counts = [streams.count(stream) for stream in range(STREAMS)]
    sent = [numbered(stream, number) for stream in range(STREAMS) for number in range(counts[stream])]
    order, taken = InOrder(), []
    for notification in data.draw(st.permutations(sent)):
        due = order.take(notification)
        assert {one.stream for one in due} <= {notification.stream}
        taken += due
    for stream in range(STREAMS):
        assert [one.number for one in taken if one.stream == stream] == list(range(counts[stream]))
    assert order.waiting == 0


def test_none_comes_twice_and_none_is_missed_for_ever() -> None:
    order = InOrder()
    assert order.take(numbered(0, 0)) == [numbered(0, 0)]
    assert order.take(numbered(0, 2)) == []
    for number in (0, 2):
        with pytest.raises(DeliveryError):
            order.take(numbered(0, number))
    order = InOrder()
    for number in range(MAX_EARLY):
        assert order.take(numbered(1, number + 1)) == []
    with pytest.raises(DeliveryError):
        order.take(numbered(1, MAX_EARLY + 1))


# -- the arena --------------------------------------------------------------------------------------


@given(st.integers(1, 8), st.lists(st.booleans(), max_size=60))
def test_slots_never_overlap_and_all_come_back(count: int, takes: list[bool]) -> None:
    slots, held = Slots(count, 4096), ExitStack()
    taken: list[tuple[ExitStack, slice]] = []
    with held:
        for take in takes:
            if take or not taken:
                stack = ExitStack()
                room = stack.enter_context(slots.slot(stack, 0))
                assert (room is None) == (len(taken) == count)
                if room is not None:
                    assert room.stop - room.start == 4096
                    assert 0 <= room.start < room.stop <= slots.total_bytes
                    assert not {room.start} & {other.start for _, other in taken}
                    taken.append((stack, room))
            else:
                taken.pop(0)[0].close()
            assert slots.taken == len(taken)
        for stack, _ in taken:
            stack.close()
    assert slots.taken == 0


def test_who_waits_for_a_slot_gets_the_next_one() -> None:
    slots, got = Slots(1, 1), threading.Event()

    def wait() -> None:
        with slots.slot("one", 20.0) as room:
            assert room == slice(0, 1)
            got.set()

    waiting = threading.Thread(target=wait)
    with slots.slot("other", 0):
        waiting.start()
        assert not got.wait(0.05)
    assert got.wait(20.0)
    waiting.join()


def test_nobody_holds_more_than_a_share() -> None:
    slots = Slots(2 * SHARE, 1)
    with ExitStack() as held:
        for _ in range(2):
            assert held.enter_context(slots.slot("one that stands still", 0)) is not None
        with slots.slot("one that stands still", 0.01) as more:
            assert more is None
        for holder in range(2 * SHARE - 2):
            assert held.enter_context(slots.slot(holder, 0)) is not None
    with slots.slot("one that stands still", 0) as again:
        assert again is not None
    assert not slots._held


# -- the line ---------------------------------------------------------------------------------------


def ended(sock: socket.socket, within_s: float = 0.1) -> bool:
    sock.settimeout(within_s)
    try:
        return sock.recv(1) == b""
    except TimeoutError:
        return False


def test_a_line_shows_its_end_only_when_nothing_is_in_flight() -> None:
    mine, theirs = socket.socketpair()
    line = Line(theirs)
    first, second = line.end(), line.end()
    with mine:
        with line.flying():
            with line.flying():
                first.close()  # one thread of the session is done: the others are to be, too
            assert not ended(mine)
            with pytest.raises(BrokenPipeError), line.flying():
                pass
        assert ended(mine, 20.0)
        second.close()
        second.close()
        assert theirs.fileno() == -1


def test_a_line_that_is_cut_while_nothing_is_in_flight_ends_at_once() -> None:
    mine, theirs = socket.socketpair()
    end = Line(theirs).end()
    with mine, end:
        assert not ended(mine)
        end.shutdown(socket.SHUT_RDWR)
        assert ended(mine, 20.0)


# -- without NIXL -----------------------------------------------------------------------------------

WITHOUT = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0].startswith("nixl"):
            raise ModuleNotFoundError(f"{name} is not here", name=name)
sys.meta_path.insert(0, Blocked())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name.startswith("nixl") else found(name)
import objectcache
from objectcache.client import ClientOptions
from objectcache.errors import ConfigError
try:
    ClientOptions(target="nixl")
except ConfigError as error:
    print(error)
"""


def test_asking_for_it_without_nixl_says_what_to_install() -> None:
    said = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.strip() == INSTALL
    assert "pip install 'objectcache[nixl]'" in INSTALL
