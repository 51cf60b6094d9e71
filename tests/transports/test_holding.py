"""Frames that come before it is known what they are of: held for a while, then thrown away, and that is told."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from objectcache.errors import DeliveryError, ObjectCacheError
from objectcache.frames import Frame, FrameType
from objectcache.keys import KeyChain
from objectcache.layout import DeliveryGeometry, PartShape
from objectcache.transports.receiver import Expected, ExpectedPart, Receiver
from objectcache.transports.sockets import recv_exact
from objectcache.transports.verification import Level, Verification

GEOMETRY = DeliveryGeometry((PartShape((0,), (8,), 1),), 1)
KEYS = KeyChain(bytes(32))
FRAME = Frame(FrameType.DATA, 7, 0, layer=0, first_chunk=0, num_chunks=1, data_bytes=8, extra=0)


class World:
    def __init__(self, hold_s: float) -> None:
        self.receiver = Receiver(Verification(Level.OFF), hold_s)
        self.mine, theirs = socket.socketpair()
        self.told: list[object] = []
        self.memory = bytearray(4096)
        self.thread = threading.Thread(target=self._run, args=(theirs,))
        self.thread.start()

    def _run(self, sock: socket.socket) -> None:
        with sock:
            try:
                self.receiver.run(0, lambda out: recv_exact(sock, out))
            except ObjectCacheError as error:
                self.receiver.lost(0, error)

    def send(self, frame: Frame, data: bytes = b"") -> None:
        self.mine.sendall(frame.encode() + data)

    def expect(self) -> None:
        self.receiver.expect(
            Expected(
                7,
                0,
                GEOMETRY,
                [ExpectedPart(0, 0, KEYS)],
                memoryview(self.memory),
                1,
                on_section=self.told.append,
                on_failed=self.told.append,
                on_fenced=lambda: self.told.append("fenced"),
            )
        )

    def end(self) -> None:
        self.mine.close()
        self.thread.join(10)
        assert not self.thread.is_alive()


def test_they_wait_for_it() -> None:
    world = World(10.0)
    world.send(FRAME, b"12345678")
    world.send(Frame(FrameType.END, 7, 0))
    time.sleep(0.05)
    world.expect()
    world.end()
    assert world.told == [0, "fenced"]
    assert world.memory[:8] == b"12345678"


def test_whoever_comes_too_late_is_told() -> None:
    world = World(0.01)
    world.send(FRAME, b"12345678")
    world.send(Frame(FrameType.END, 7, 0))
    world.end()
    world.expect()
    failure, fenced = world.told
    assert isinstance(failure, DeliveryError)
    assert fenced == "fenced"
    assert world.memory[:8] == bytes(8)


@pytest.mark.parametrize("hold_s", [0.0, 0.05])
def test_what_is_over_is_not_waited_for(hold_s: float) -> None:
    world = World(hold_s)
    for _ in range(50):
        world.send(Frame(FrameType.END, 7, 0))
    begun_s = time.monotonic()
    world.end()
    assert time.monotonic() - begun_s < 1.0
