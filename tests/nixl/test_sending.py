"""A worker's session and a client's receivers in one process: what is written where, and what is left."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

import pytest

from objectcache.buffers import BufferPool
from objectcache.client.nixl_receivers import NixlReceivers
from objectcache.client.receivers import read_to_end
from objectcache.delivery import Delivery
from objectcache.errors import DeliveryError, NixlRefusedError, ObjectCacheError
from objectcache.keys import KeyChain
from objectcache.messages import NixlRequest
from objectcache.stores import FileStore, MemoryStore, Store
from objectcache.testing.far import LatencyStore
from objectcache.transports import Expected, ExpectedPart
from objectcache.transports.nixl import Agent, NixlSession, Region, Slots, Writer, encode_notification
from objectcache.transports.pacing import Pace
from objectcache.transports.shared_memory import MappedFiles, MappedPiece, PlacingDelivery
from objectcache.transports.shared_memory.placements import placements_of
from objectcache.transports.verification import Verification
from objectcache.workers.open_objects import OpenObjects
from tests.gateway.process import eventually
from tests.segments import random_chain
from tests.transports.sending import PATIENCE_S, store_prefix

SEGMENTS, CHUNKS, LAYERS, SLICE_BYTES = 3, 8, 4, 300_000


@dataclass
class Told:
    units: list[int] = field(default_factory=list)
    errors: list[ObjectCacheError] = field(default_factory=list)
    fenced: threading.Event = field(default_factory=threading.Event)


class World:
    """Everything but the gateway between them."""

    def __init__(self, store: Store, slots: Slots | None = None, streams: int = 2) -> None:
        self.store = store
        self.prefix = store_prefix(store, 1, segments=SEGMENTS, chunks=CHUNKS, layers=LAYERS, slice_bytes=SLICE_BYTES)
        self.total_bytes = self.prefix.plan.geometry.total_bytes
        self.pool = BufferPool(2 * self.total_bytes)
        self.writer = Writer("writer", MappedFiles(), slots)
        self.lost, self.client_lost = threading.Event(), threading.Event()
        self.receivers = NixlReceivers(self.client_lost.set, Verification(), "client", self.pool, streams)
        asked = NixlRequest.decode(self.receivers.registration(bytes(16)))
        self.region = Region(asked.address, asked.size_bytes, asked.memory, asked.device)
        self.writer.add_peer(asked.metadata, "client", self.region)
        self.session = NixlSession(streams, "client", self.region, self.writer, self.lost.set)
        self.receivers.accept("writer")
        mine, theirs = socket.socketpair()
        self._listener = threading.Thread(target=self._listen, args=(theirs.dup(),))
        self._listener.start()
        assert self.session.attach(0, theirs)
        self.receivers.attach(0, mine)
        self.streams = streams
        self.objects = OpenObjects()
        self.outcomes: dict[int, ObjectCacheError | None] = {}
        self._numbers = iter(range(1, 1000))

    def _listen(self, sock: socket.socket) -> None:
        """As a worker does."""
        with sock:
            read_to_end(sock)
        self.session.close()

    def deliver(self, pace: Pace | None = None, offset: int | None = None) -> tuple[int, memoryview, Told]:
        plan, told, number = self.prefix.plan, Told(), next(self._numbers)
        buffer = self.pool.allocate(self.total_bytes)
        keys = [key for segment in range(SEGMENTS) for key in random_chain(100 + segment, CHUNKS)]
        part = ExpectedPart(0, 0, KeyChain(b"".join(keys)))

        def fenced() -> None:
            self.pool.release(buffer)
            told.fenced.set()

        expected = Expected(
            *(number, 0, plan.geometry, [part], buffer.view, self.streams),
            *(told.units.append, told.errors.append, fenced),
            shared=True,
        )
        self.receivers.expect(expected, buffer.offset)
        state = Delivery(streams=self.streams, credit_bytes=0, deadline_s=time.monotonic() + PATIENCE_S)
        held = self.objects.hold(self.store, plan.segment_bytes)

        def over(error: ObjectCacheError | None) -> None:
            held.release()
            self.outcomes[number] = error

        self.session.add(
            PlacingDelivery(
                *(number, 0, state, placements_of(plan, held.readers, number, 0), over),
                geometry=plan.geometry,
                offset=buffer.offset if offset is None else offset,
                far=self.store.far,
                pace=pace,
            )
        )
        return number, buffer.view, told

    def landed(self, view: memoryview) -> bool:
        geometry = self.prefix.plan.geometry
        return all(
            view[geometry.offset(0, layer) : geometry.offset(0, layer) + len(data)] == data
            for layer, data in enumerate(self.prefix.layers)
        )

    def close(self) -> None:
        """All is over, and nothing is left."""
        client = self.receivers._agent
        self.receivers.close()
        eventually(self.lost.is_set, "the session has ended")
        eventually(self.client_lost.is_set, "the client knows")
        eventually(lambda: client.usage == (0, 0, 0), "nothing of the client's is registered")
        self._listener.join(PATIENCE_S)
        self.writer.close_idle(inf)
        assert self.writer.agent.usage == (1, 0, 0)
        assert self.writer.slots.taken == 0
        assert self.receivers._order.waiting == 0
        assert not self.receivers._receiver._expected
        self.writer.close()
        assert self.writer.agent.usage == (0, 0, 0)
        self.pool.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with FileStore(tmp_path) as store:
        made = World(store)
        yield made
        made.close()


def check(world: World, view: memoryview, told: Told, number: int) -> None:
    assert told.fenced.wait(PATIENCE_S)
    assert (sorted(told.units), told.errors) == ([0, 1, 2, 3], [])
    assert world.landed(view)
    eventually(lambda: number in world.outcomes, "it is over on the worker's side")
    assert world.outcomes[number] is None


def test_all_layers_land_and_verify(world: World) -> None:
    for _ in range(3):
        number, view, told = world.deliver()
        check(world, view, told, number)


def test_placements_that_are_larger_than_a_slot_and_streams_that_share_one(tmp_path: Path) -> None:
    with FileStore(tmp_path) as store:
        world = World(store, Slots(1, 100_000), streams=3)
        first, second = world.deliver(), world.deliver()
        for number, view, told in (first, second):
            check(world, view, told, number)
        world.close()


def test_a_store_without_files() -> None:
    with MemoryStore() as store:
        world = World(store)
        number, view, told = world.deliver()
        check(world, view, told, number)
        world.close()


def test_a_store_that_is_far_away_and_slots_that_are_scarce() -> None:
    with LatencyStore(MemoryStore(), 0.001) as store:
        world = World(store, Slots(1, 100_000))
        deliveries = [world.deliver() for _ in range(2)]
        for number, view, told in deliveries:
            check(world, view, told, number)
        number, _, told = world.deliver()
        world.receivers.cancel(number, 0)
        assert world.session.cancel(number, 0, PATIENCE_S)
        assert told.fenced.wait(PATIENCE_S)
        world.close()


def test_a_rate_is_kept_and_a_cancelled_delivery_is_quiet(world: World) -> None:
    bytes_s, taken = 20e6, [0]

    def report(total_bytes: int) -> None:
        taken[0] = total_bytes

    started_s = time.monotonic()
    number, _, told = world.deliver(Pace(lambda: bytes_s, report))
    while taken[0] < bytes_s * 0.2 and time.monotonic() < started_s + PATIENCE_S:
        time.sleep(0.01)
    sent_bytes, at_s = taken[0], time.monotonic() - started_s
    assert bytes_s * 0.2 <= sent_bytes <= bytes_s * (at_s + 0.03)  # a step of it may just have been sent
    world.receivers.cancel(number, 0)
    assert world.session.cancel(number, 0, PATIENCE_S)
    assert told.fenced.wait(PATIENCE_S)
    after = taken[0]
    time.sleep(0.05)
    assert taken[0] == after
    number, view, told = world.deliver()
    check(world, view, told, number)


def test_what_lies_outside_of_the_region_is_not_written(tmp_path: Path) -> None:
    with FileStore(tmp_path) as store:
        world = World(store)
        before = bytes(world.pool.memory)
        _, _, told = world.deliver(offset=world.pool.size_bytes - 4096)
        assert told.fenced.wait(PATIENCE_S)
        assert [type(error) for error in told.errors] != []
        assert told.units == []
        assert world.pool.memory == before
        world.close()


def test_only_the_agent_that_was_named_is_taken(world: World) -> None:
    other = Agent("other")
    memory = BufferPool(4096)
    other.register(Region(memory.address, memory.size_bytes))
    with pytest.raises(NixlRefusedError, match="another name"):
        world.writer.add_peer(other.metadata(), "somebody", Region(memory.address, memory.size_bytes))
    with pytest.raises(NixlRefusedError, match="has not registered"):
        world.writer.add_peer(other.metadata(), "other", Region(memory.address, 2 * memory.size_bytes))
    with pytest.raises(NixlRefusedError, match="of no use"):
        world.writer.add_peer(b"noise", "other", Region(memory.address, memory.size_bytes))
    with pytest.raises(NixlRefusedError):
        world.writer.add_peer(world.receivers._agent.metadata(), "other", Region(memory.address, memory.size_bytes))
    assert world.writer.agent.usage == (1, 1, 0), "whose metadata somebody else brings is not forgotten"
    number, view, told = world.deliver()
    check(world, view, told, number)
    other.close()
    memory.close()


def test_notifications_of_others_are_not_listened_to(world: World) -> None:
    other = Agent("other")
    client = other.add_peer(world.receivers._agent.metadata())
    for noise in (b"", b"noise", encode_notification(0, 0, bytes(64))):
        other.notify(client, noise)
        other.notifications()
    number, view, told = world.deliver()
    check(world, view, told, number)
    assert not world.client_lost.is_set()
    other.close()


def test_a_worker_that_says_what_it_cannot_say_is_asked_to_let_go(tmp_path: Path) -> None:
    with FileStore(tmp_path) as store:
        world = World(store)
        _, _, told = world.deliver()
        world.writer.agent.notify("client", b"noise")
        eventually(world.client_lost.is_set, "the session is given up")
        eventually(world.lost.is_set, "on both sides")
        assert told.fenced.wait(PATIENCE_S)
        with pytest.raises(ObjectCacheError):
            world.deliver()
        world.close()


def test_a_peer_that_is_gone_is_an_error() -> None:
    one = Agent("one")
    with pytest.raises(DeliveryError):
        one.notify("two", b"hello")
    with pytest.raises(DeliveryError):
        one.post([MappedPiece(0, 1)], "two", Region(4096, 1), 0, b"")
    assert one.usage == (0, 0, 0)
    one.close()
    one.close()
