"""A sender that writes late: old epochs, cancelled deliveries, frames that hang. Real sockets, a real pool."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest

from objectcache.buffers import BufferPool
from objectcache.cache.destination import Destination
from objectcache.errors import BufferPoolExhaustedError, ObjectCacheError
from objectcache.frames import Frame, FrameType
from objectcache.integrity import LayerBinding
from objectcache.keys import KeyChain
from objectcache.layout import DeliveryGeometry, PartShape
from objectcache.transports import Expected, ExpectedPart, Receiver
from objectcache.transports.sockets import recv_exact
from tests.gateway.process import PATIENCE_S
from tests.segments import random_chain

SLICE_BYTES, CHUNKS, LAYERS = 1000, 4, 3
GEOMETRY = DeliveryGeometry((PartShape(tuple(range(LAYERS)), (SLICE_BYTES,) * LAYERS, CHUNKS),), 1)
KEYS = random_chain(3, CHUNKS)
DELIVERY = 7


def slices(layer: int, *, epoch: int) -> bytes:
    return np.random.default_rng([layer, epoch]).bytes(SLICE_BYTES * CHUNKS)


@dataclass
class Told:
    """What a receiver tells of one delivery."""

    units: list[int] = field(default_factory=list)
    errors: list[ObjectCacheError] = field(default_factory=list)
    fenced: threading.Event = field(default_factory=threading.Event)


class ScriptedSender:
    """Sends on one stream just what a test says, frame by frame, or a part of one."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def head(self, layer: int, *, epoch: int = 0, delivery: int = DELIVERY) -> bytes:
        data, binding = slices(layer, epoch=epoch), LayerBinding(0, 0, layer)
        digests = [binding.slice_digest(data[i * SLICE_BYTES : (i + 1) * SLICE_BYTES], KEYS[i]) for i in range(CHUNKS)]
        frame = Frame(
            FrameType.DATA,
            delivery,
            epoch,
            extra=CHUNKS - 1,
            layer=layer,
            num_chunks=CHUNKS,
            data_bytes=len(data),
            unit=layer,
            digest=digests[0],
        )
        return frame.encode() + b"".join(digests[1:])

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    def layer(self, layer: int, *, epoch: int = 0, delivery: int = DELIVERY) -> None:
        self.send(self.head(layer, epoch=epoch, delivery=delivery) + slices(layer, epoch=epoch))

    def end(self, *, epoch: int = 0) -> None:
        self.send(Frame(FrameType.END, DELIVERY, epoch).encode())


class World:
    """A receiver with two streams, a pool that holds one destination, and the senders' ends."""

    def __init__(self) -> None:
        self.pool = BufferPool(GEOMETRY.total_bytes)
        self.receiver = Receiver()
        self.sockets: list[socket.socket] = []
        self.senders: list[ScriptedSender] = []
        self.threads: list[threading.Thread] = []
        for stream in range(2):
            mine, theirs = socket.socketpair()
            self.sockets += [mine, theirs]
            self.senders.append(ScriptedSender(theirs))
            self.threads.append(threading.Thread(target=self._run, args=(stream, mine)))
            self.threads[-1].start()

    def _run(self, stream: int, sock: socket.socket) -> None:
        try:
            self.receiver.run(stream, lambda out: recv_exact(sock, out))
        except ObjectCacheError as error:
            self.receiver.lost(stream, error)

    def expect(self, *, epoch: int = 0) -> tuple[Destination, Told]:
        destination, told = Destination(self.pool, self.pool.allocate(GEOMETRY.total_bytes)), Told()

        def fence() -> None:
            told.fenced.set()
            destination.fence()

        def cancel() -> None:
            self.receiver.cancel(DELIVERY, epoch)

        destination.begin(cancel)
        part = ExpectedPart(0, 0, KeyChain(KEYS.data))
        view = destination.buffer.view
        self.receiver.expect(
            Expected(
                DELIVERY, epoch, GEOMETRY, [part], view, 2, told.units.append, told.errors.append, fence, from_layer=0
            )
        )
        return destination, told

    def cut(self, stream: int) -> None:
        self.sockets[2 * stream].shutdown(socket.SHUT_RDWR)

    def settle(self) -> None:
        """Everything that was sent has been read: both streams have come to their ends."""
        for sender in self.sockets[1::2]:
            sender.shutdown(socket.SHUT_WR)
        for thread in self.threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.settle()
    for sock in made.sockets:
        sock.close()
    made.pool.close()


def layer_in(destination: Destination, layer: int) -> bytes:
    start = GEOMETRY.offset(0, layer)
    return bytes(destination.buffer.view[start : start + SLICE_BYTES * CHUNKS])


def test_a_cancelled_delivery_between_frames_is_fenced_at_once_and_never_written_again(world: World) -> None:
    first, told = world.expect()
    world.senders[0].layer(0)
    while not told.units:
        assert not told.fenced.wait(0.001)
    first.close(complete=False)
    assert told.fenced.is_set()
    again = world.pool.allocate(GEOMETRY.total_bytes)
    assert again.offset == first.buffer.offset
    content = np.random.default_rng(9).bytes(len(again.view))
    again.view[:] = content
    for sender in world.senders:
        sender.layer(1)
        sender.layer(2)
        sender.end()
    world.settle()
    assert bytes(again.view) == content
    assert told.units == [0]


def test_a_frame_that_hangs_keeps_its_memory_until_it_ends(world: World) -> None:
    first, told = world.expect()
    sender = world.senders[0]
    data = sender.head(0) + slices(0, epoch=0)
    sender.send(data[:-1500])
    wait_writing(world)
    first.close(complete=False)
    assert not told.fenced.wait(0.2)
    with pytest.raises(BufferPoolExhaustedError):
        world.pool.allocate(1)
    sender.send(data[-1500:])
    assert told.fenced.wait(PATIENCE_S)
    world.pool.release(world.pool.allocate(GEOMETRY.total_bytes))
    assert told.units == []


def test_a_frame_that_hangs_for_good_lets_go_when_its_stream_is_cut(world: World) -> None:
    first, told = world.expect()
    sender = world.senders[0]
    sender.send((sender.head(0) + slices(0, epoch=0))[:-1500])
    wait_writing(world)
    first.close(complete=False)
    assert not told.fenced.wait(0.2)
    world.cut(0)
    assert told.fenced.wait(PATIENCE_S)
    again = world.pool.allocate(GEOMETRY.total_bytes)
    again.view[:] = bytes(len(again.view))
    with pytest.raises(OSError):
        sender.send(bytes(1 << 24))  # nobody listens any more
    world.senders[1].layer(1)
    world.settle()
    assert not any(again.view)


def test_frames_of_an_older_epoch_are_read_and_thrown_away(world: World) -> None:
    """The same delivery, asked for again: what the first attempt still sends lands nowhere."""
    first, _ = world.expect(epoch=0)
    first.close(complete=False)
    second, told = world.expect(epoch=1)
    assert second.buffer.offset == first.buffer.offset
    late, current = world.senders
    for layer in range(LAYERS):
        late.layer(layer, epoch=0)
        current.layer(layer, epoch=1)
    late.end(epoch=0)
    for sender in world.senders:
        sender.end(epoch=1)
    assert told.fenced.wait(PATIENCE_S)
    world.settle()
    assert told.units == [0, 1, 2]
    assert told.errors == []
    assert [layer_in(second, layer) for layer in range(LAYERS)] == [slices(layer, epoch=1) for layer in range(LAYERS)]


def test_an_older_epochs_last_word_does_not_end_the_current_one(world: World) -> None:
    first, _ = world.expect(epoch=0)
    first.close(complete=False)
    second, told = world.expect(epoch=1)
    for sender in world.senders:
        sender.end(epoch=0)
        sender.send(Frame(FrameType.CANCELLED, DELIVERY, 0).encode())
    for layer in range(LAYERS):
        world.senders[layer % 2].layer(layer, epoch=1)
    assert told.fenced.wait(PATIENCE_S)
    assert told.errors == []
    assert layer_in(second, 2) == slices(2, epoch=1)


def test_an_older_epoch_cannot_cancel(world: World) -> None:
    _, told = world.expect(epoch=1)
    assert world.receiver.cancel(DELIVERY, 0) == frozenset()
    for layer in range(LAYERS):
        world.senders[0].layer(layer, epoch=1)
    assert told.fenced.wait(PATIENCE_S)
    assert told.units == [0, 1, 2]


def wait_writing(world: World) -> None:
    """A stream is in the middle of a frame."""
    pause = threading.Event()
    for _ in range(3000):
        if world.receiver.writing(DELIVERY):
            return
        pause.wait(0.005)
    pytest.fail("no stream began the frame")
