"""The sending side: a worker's streams read into registered memory, and WRITE from there to the final place.

Each stream has one slot of the arena at a time, and one WRITE in flight: while that is, the others read. What is in
flight cannot be recalled: a delivery is quiet, and a session ends, only after it.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from math import inf

from objectcache.errors import DeliveryError, NixlRefusedError, ObjectCacheError
from objectcache.pages import address_of, private_memory
from objectcache.transports import supplying
from objectcache.transports.active import ActiveDelivery, Turn
from objectcache.transports.nixl.agent import Agent, Region
from objectcache.transports.nixl.arena import Slots
from objectcache.transports.nixl.flights import Flights
from objectcache.transports.nixl.line import Line, LineEnd, watch
from objectcache.transports.nixl.notifications import encode_notification
from objectcache.transports.nixl.registered import RegisteredFiles
from objectcache.transports.sender import SenderSession
from objectcache.transports.shared_memory import MappedFiles, MappedPiece, PlacingDelivery
from objectcache.transports.shared_memory.placements import PLACED_BYTES, PlacingBody

SLOT_BYTES = PLACED_BYTES
"""A whole placement, but for slices that are larger: each WRITE costs a quarter of a millisecond of computing,
whatever its size."""
SLOTS = 32
"""Registered memory is pinned where there is RDMA: 256 MiB for each worker that has clients with NIXL."""
PACED_STEPS = 4
"""How many steps of a rate one WRITE is, and so what is in flight for each stream: over TCP it takes a millisecond or
two until one is known to have landed."""
SLOT_WAIT_S = 0.1


class Writer:
    """A worker's agent, its arena, the store's files that it has registered, and the peers that it writes to.
    Thread-safe."""

    def __init__(self, name: str, files: MappedFiles, slots: Slots | None = None) -> None:
        """`files` are those that are copied from. Raises ConfigError where NIXL is missing, DeliveryError."""
        self.slots = slots or Slots(SLOTS, SLOT_BYTES)
        self.agent = Agent(name)
        self._files = files
        self._memory = memoryview(private_memory(self.slots.total_bytes))
        self._address = address_of(self._memory)
        self.agent.register(Region(self._address, self.slots.total_bytes))
        self._sessions: set[NixlSession] = set()
        self._guard = threading.Lock()
        self.flights = Flights(self.agent, self._busy)
        self.registered = RegisteredFiles(self.flights)

    def place(self, body: PlacingBody, room: slice) -> list[MappedPiece]:
        """What comes next of `body`, in `room` of the arena, which it fills. Raises IntegrityError, StoreError."""
        body.place(self._memory[room], self._files)
        return [MappedPiece(self._address + room.start, room.stop - room.start)]

    def add_peer(self, metadata: bytes, expected: str, region: Region) -> None:
        """Raises NixlRefusedError unless `metadata` are of the agent that was to be called `expected`, and of one that
        has registered `region`."""
        self.flights.ask(partial(_add_peer, metadata, expected, region))

    def opened(self, session: NixlSession) -> None:
        with self._guard:
            self._sessions.add(session)

    def ended(self, session: NixlSession) -> None:
        """Nothing is in flight to its peer."""
        with self._guard:
            self._sessions.discard(session)
        self.flights.ask(lambda agent: agent.remove_peer(session.peer))

    def _busy(self) -> bool:
        with self._guard:
            return any(not session.idle for session in self._sessions)

    def close_idle(self, now_s: float) -> None:
        """Let go of files that nobody uses."""
        self.registered.close_idle(now_s)

    def close(self) -> None:
        """When all sessions have ended."""
        self.registered.close_idle(inf)
        self.flights.close()
        self.agent.close()


def _add_peer(metadata: bytes, expected: str, region: Region, agent: Agent) -> None:
    """Raises NixlRefusedError."""
    others = {*agent.peers, agent.name}
    try:
        name = agent.add_peer(metadata)
    except DeliveryError as error:
        raise NixlRefusedError(f"the agent's metadata are of no use: {error}") from error
    if name != expected:
        if name not in others:  # somebody's, to whom something may be in flight
            agent.remove_peer(name)
        raise NixlRefusedError("the metadata are of an agent with another name than it was given here")
    try:
        agent.check_region(name, region)
    except DeliveryError as error:
        agent.remove_peer(name)
        raise NixlRefusedError(f"the agent has not registered that memory: {error}") from error


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
            try:
                (at_hand,) = turn.hold(stack)
                assert isinstance(at_hand, PlacingBody)
                pieces = self._pieces(at_hand, outgoing.data_bytes, active, stack)
            except ObjectCacheError as error:
                self._leave(active, turn)
                supplying.fail(active, self._changed, error)
                return False
            if not pieces:
                self._leave(active, turn)
                return False
            if not self._begin(stream, active, turn.wire_bytes):
                return False
            notification = self._numbered(stream, outgoing.head) if outgoing.head else b""
            with sock.line.flying():
                at = active.place_of(outgoing).start
                self._writer.flights.write(pieces, self.peer, self.region, at, notification)
        return True

    def _pieces(
        self, body: PlacingBody, data_bytes: int, active: ActiveDelivery, stack: ExitStack
    ) -> list[MappedPiece] | None:
        """Where so many bytes of `body` lie registered, until `stack` ends: where they are, or else in the arena. None:
        there is no room for them, and the delivery is over. Raises IntegrityError, StoreError."""
        pieces = self._writer.registered.hold_next(body, data_bytes, stack)
        while pieces is None and not self._gives_up(active):
            room = stack.enter_context(self._writer.slots.slot(self, SLOT_WAIT_S))
            if room is not None:
                pieces = self._writer.place(body, slice(room.start, room.start + data_bytes))
        return pieces

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
            word = self._numbered(stream, active.last_word())
            self._writer.flights.ask(lambda agent: agent.notify(self.peer, word))

    def _numbered(self, stream: int, head: bytes) -> bytes:
        number = self._numbers[stream]
        self._numbers[stream] += 1
        return encode_notification(stream, number, head)
