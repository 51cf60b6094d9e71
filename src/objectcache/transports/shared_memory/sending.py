"""The sending side: a worker's streams copy into the client's memory, and say of each placement that it is there.

Only the end of a stream, seen by the client, tells it that a worker which cannot be asked has let go. So a stream is
never shut down in the middle of a copy.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from objectcache.delivery import Delivery
from objectcache.errors import ObjectCacheError
from objectcache.layout import DeliveryGeometry
from objectcache.transports import supplying
from objectcache.transports.active import ActiveDelivery, Turn
from objectcache.transports.pacing import Pace
from objectcache.transports.sender import SenderSession
from objectcache.transports.shared_memory.mapped_files import MappedFiles
from objectcache.transports.shared_memory.memory import ClientMemory
from objectcache.transports.shared_memory.placements import PlacingBody
from objectcache.transports.sockets import send_head
from objectcache.transports.source import Outgoing


class PlacingSocket(socket.socket):
    """A stream's socket. Its end shows at the other side only when nothing is being copied on its behalf."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(fileno=sock.detach())
        self._guard = threading.Lock()
        self._placing = self._cut = False

    @contextmanager
    def placing(self) -> Iterator[None]:
        """While something is copied. Raises BrokenPipeError when the other side may have seen the end."""
        with self._guard:
            if self._cut:
                raise BrokenPipeError("the stream was cut")
            self._placing = True
        try:
            yield
        finally:
            self._placed()

    def _placed(self) -> None:
        with self._guard:
            self._placing = False
            if self._cut:
                self._shut()

    def shutdown(self, how: int) -> None:
        with self._guard:
            self._cut = True
            if not self._placing:
                self._shut()

    def close(self) -> None:
        """Also for duplicates, which whoever listens may have."""
        self.shutdown(socket.SHUT_RDWR)
        super().close()

    def _shut(self) -> None:
        with suppress(OSError):  # it may be gone already
            super().shutdown(socket.SHUT_RDWR)


class PlacingDelivery(ActiveDelivery):
    """One delivery into the client's memory, from byte `offset` of it as `geometry` says."""

    def __init__(
        self,
        delivery: int,
        epoch: int,
        state: Delivery,
        spans: Iterator[list[Outgoing]],
        on_over: Callable[[ObjectCacheError | None], None],
        *,
        geometry: DeliveryGeometry,
        offset: int,
        far: bool = False,
        pace: Pace | None = None,
    ) -> None:
        # A placement is a turn by itself.
        super().__init__(delivery, epoch, state, spans, on_over, far=far, turn_bytes=1, pace=pace)
        self._geometry = geometry
        self._offset = offset

    def place_of(self, outgoing: Outgoing) -> slice:
        """Where in the client's memory the data goes."""
        frame = outgoing.frame
        at = self._offset + self._geometry.offset(frame.part, frame.layer)
        at += frame.first_chunk * (frame.data_bytes // frame.num_chunks) + outgoing.before_bytes
        return slice(at, at + outgoing.data_bytes)


class PlacingSession(SenderSession):
    """The streams of one client, and its memory, which is unmapped after the last stream's end."""

    announces = False
    places = True

    def __init__(self, streams: int, memory: ClientMemory, files: MappedFiles, on_lost: Callable[[], None]) -> None:
        """The session owns `memory`."""
        self.memory = memory
        self._files = files

        def lost() -> None:
            memory.close()
            on_lost()

        super().__init__(streams, lost)

    def attach(self, stream: int, sock: socket.socket) -> bool:
        return super().attach(stream, PlacingSocket(sock))

    def _send(self, stream: int, sock: socket.socket, active: ActiveDelivery, turn: Turn) -> bool:
        """One placement, unless it cannot be had, or is not wanted any more when it is at hand. Raises OSError."""
        assert isinstance(sock, PlacingSocket)
        assert isinstance(active, PlacingDelivery)
        (stretch,) = turn.stretches
        (outgoing,) = stretch.frames
        with ExitStack() as stack:
            try:
                (at_hand,) = turn.hold(stack)
            except ObjectCacheError as error:
                with self._changed:
                    active.state.unclaim(turn.wire_bytes)
                supplying.fail(active, self._changed, error)
                return False
            assert isinstance(at_hand, PlacingBody)
            if not self._begin(stream, active, turn.wire_bytes):
                return False
            begun_s = time.monotonic()
            try:
                with sock.placing():
                    at_hand.place(self.memory.view[active.place_of(outgoing)], self._files)
            except ObjectCacheError as error:
                supplying.fail(active, self._changed, error)  # nothing was said of it: the stream is in step
            else:
                send_head(sock, outgoing.head, more=False)
                if active.times is not None:
                    active.times.note(stream, turn, begun_s, time.monotonic())
        return True
