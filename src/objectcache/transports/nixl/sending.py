"""The sending side: a worker's streams read into registered memory, and WRITE from there to the final place.

Each stream has one slot of the arena at a time, and one WRITE in flight: while that is, the others read. What is in
flight cannot be recalled: a delivery is quiet, and a session ends, only after it.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

from objectcache.errors import DeliveryError, NixlRefusedError, ObjectCacheError
from objectcache.pages import address_of, private_memory
from objectcache.transports import supplying
from objectcache.transports.active import ActiveDelivery, Turn
from objectcache.transports.nixl.agent import Agent, Region
from objectcache.transports.nixl.arena import Slots
from objectcache.transports.nixl.line import Line, LineEnd, watch
from objectcache.transports.nixl.notifications import encode_notification
from objectcache.transports.sender import SenderSession
from objectcache.transports.shared_memory import MappedFiles, PlacingDelivery
from objectcache.transports.shared_memory.placements import PLACED_BYTES, PlacingBody

SLOT_BYTES = PLACED_BYTES
"""A whole placement, but for slices that are larger: each WRITE costs 0.2 ms of computing, whatever its size."""
SLOTS = 32
"""Registered memory is pinned where there is RDMA: 256 MiB for each worker that has clients with NIXL."""
PACED_STEPS = 4
"""How many steps of a rate one WRITE is, and so what is in flight for each stream: over TCP it takes a millisecond or
two until one is known to have landed."""
SLOT_WAIT_S = 0.1
TICK_S, IDLE_TICK_S = 0.005, 0.05
"""How often UCX makes progress beside the WRITEs: for last words that were left waiting, and for peers that come and
go."""

log = logging.getLogger(__name__)


class Writer:
    """A worker's agent, its arena, and the peers that it writes to. Thread-safe."""

    def __init__(self, name: str, files: MappedFiles, slots: Slots | None = None) -> None:
        """Raises ConfigError where NIXL is missing, DeliveryError."""
        self.slots = slots or Slots(SLOTS, SLOT_BYTES)
        self.files = files
        self.agent = Agent(name)
        self._memory = memoryview(private_memory(self.slots.total_bytes))
        self._address = address_of(self._memory)
        self.agent.register(Region(self._address, self.slots.total_bytes))
        self._sessions: set[NixlSession] = set()
        self._adding = threading.Lock()
        self._changed = threading.Condition()
        self._closed = False
        self._ticking = threading.Thread(target=self._tick, name="nixl-progress", daemon=True)
        self._ticking.start()

    def view(self, room: slice) -> memoryview:
        return self._memory[room]

    def write(self, room: slice, peer: str, region: Region, offset: int, notification: bytes) -> None:
        """What is in `room` of the arena, as `Agent.write`."""
        size_bytes = room.stop - room.start
        self.agent.write(self._address + room.start, size_bytes, peer, region, offset, notification)

    def add_peer(self, metadata: bytes, expected: str, region: Region) -> None:
        """Raises NixlRefusedError unless `metadata` are of the agent that was to be called `expected`, and of one that
        has registered `region`."""
        with self._adding:
            others = {*self.agent.peers, self.agent.name}
            try:
                name = self.agent.add_peer(metadata)
            except DeliveryError as error:
                raise NixlRefusedError(f"the agent's metadata are of no use: {error}") from error
            if name != expected:
                if name not in others:  # somebody's, to whom something may be in flight
                    self.agent.remove_peer(name)
                raise NixlRefusedError("the metadata are of an agent with another name than it was given here")
            try:
                self.agent.check_region(name, region)
            except DeliveryError as error:
                self.agent.remove_peer(name)
                raise NixlRefusedError(f"the agent has not registered that memory: {error}") from error

    def opened(self, session: NixlSession) -> None:
        with self._changed:
            self._sessions.add(session)
            self._changed.notify_all()

    def ended(self, session: NixlSession) -> None:
        """Nothing is in flight to its peer."""
        with self._changed:
            self._sessions.discard(session)
        self.agent.remove_peer(session.peer)

    def _tick(self) -> None:
        while True:
            with self._changed:
                busy = any(not session.idle for session in self._sessions)
                self._changed.wait(TICK_S if busy else IDLE_TICK_S)
                if self._closed:
                    return
            with suppress(DeliveryError):  # nobody has anything to tell a worker
                self.agent.notifications()

    def close(self) -> None:
        """When all sessions have ended."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._ticking.join()
        self.agent.close()


class NixlSession(SenderSession):
    """The streams of one client, which are threads here, its line, and what it registered."""

    announces = False
    places = True

    def __init__(self, streams: int, peer: str, region: Region, writer: Writer, on_lost: Callable[[], None]) -> None:
        """`peer` is known to `writer`, and forgotten there with the end of the last stream."""
        self.peer = peer
        self.region = region
        self._writer = writer
        self._numbers = [0] * streams

        def lost() -> None:
            writer.ended(self)
            on_lost()

        super().__init__(streams, lost)
        writer.opened(self)

    def attach(self, stream: int, sock: socket.socket) -> bool:
        """The one line of the session, which is `stream` 0."""
        watch(sock)
        line = Line(sock)
        ends = [line.end() for _ in range(self.streams)]
        # All or none: the first is refused where the session has its line, or has ended.
        if stream != 0 or not super().attach(0, ends[0]):
            for end in ends:
                end.close()
            return False
        for number, end in enumerate(ends[1:], 1):
            super().attach(number, end)
        return True

    def _take_turn(self, stream: int, active: ActiveDelivery, now_s: float) -> Turn:
        """A placement, or as much of it as there is room for, or the rate allows."""
        pace, most_bytes = active.pace, self._writer.slots.slot_bytes
        if pace is not None and pace.bound:
            most_bytes = min(most_bytes, PACED_STEPS * pace.step_bytes)
        turn = active.take_turn(stream, active.most_bytes(most_bytes), most_bytes)
        if pace is not None:
            pace.take(turn.data_bytes, now_s)
        return turn

    def _send(self, stream: int, sock: socket.socket, active: ActiveDelivery, turn: Turn) -> bool:
        """One WRITE, unless it cannot be had, or is not wanted any more when it is at hand: False.

        Raises OSError, and DeliveryError when the peer is gone.
        """
        assert isinstance(sock, LineEnd)
        assert isinstance(active, PlacingDelivery)
        (stretch,) = turn.stretches
        (outgoing,) = stretch.frames
        with ExitStack() as stack:
            room = stack.enter_context(self._writer.slots.slot(SLOT_WAIT_S))
            while room is None and not self._gives_up(active):
                room = stack.enter_context(self._writer.slots.slot(SLOT_WAIT_S))
            if room is None:
                if turn.body is not None:
                    stack.enter_context(turn.body)
                self._leave(active, turn)
                return False
            room = slice(room.start, room.start + outgoing.data_bytes)
            try:
                (at_hand,) = turn.hold(stack)
                assert isinstance(at_hand, PlacingBody)
                at_hand.place(self._writer.view(room), self._writer.files)
            except ObjectCacheError as error:
                self._leave(active, turn)
                supplying.fail(active, self._changed, error)
                return False
            if not self._begin(stream, active, turn.wire_bytes):
                return False
            notification = self._numbered(stream, outgoing.head) if outgoing.head else b""
            with sock.line.flying():
                self._writer.write(room, self.peer, self.region, active.place_of(outgoing).start, notification)
        return True

    def _leave(self, active: ActiveDelivery, turn: Turn) -> None:
        """What was claimed is not begun."""
        with self._changed:
            active.state.unclaim(turn.wire_bytes)
            self._changed.notify_all()

    def _gives_up(self, active: ActiveDelivery) -> bool:
        with self._changed:
            return self._closed or active.state.stopping or time.monotonic() >= active.state.deadline_s

    def _send_last_word(self, stream: int, sock: socket.socket, active: ActiveDelivery) -> None:
        assert isinstance(sock, LineEnd)
        with sock.line.flying():
            self._writer.agent.notify(self.peer, self._numbered(stream, active.last_word()))

    def _numbered(self, stream: int, head: bytes) -> bytes:
        number = self._numbers[stream]
        self._numbers[stream] += 1
        return encode_notification(stream, number, head)
