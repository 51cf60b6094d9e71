"""Sessions of a data worker: the connections of one receiver, and its memory where that is to be written from here."""

from __future__ import annotations

import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping

from objectcache.errors import DeliveryError, ObjectCacheError, SharedMemoryRefusedError
from objectcache.frames import FRAME_HEADER_BYTES, FrameType, credit_bytes, decode_frame
from objectcache.transports.connecting import tune
from objectcache.transports.nixl import NixlSession, Region, Writer
from objectcache.transports.sender import SenderSession
from objectcache.transports.shared_memory import ClientMemory, MappedFiles, PlacingSession
from objectcache.transports.sockets import recv_exact
from objectcache.workers.answering import Answering, Order, in_thread
from objectcache.workers.channel import Message

CREDIT_PAUSE_S = 0.001
"""Between two words of credit that are passed on: whoever says more waits."""

log = logging.getLogger(__name__)


class WorkerSessions:
    """By id. Thread-safe."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._lock = threading.Lock()
        self._sessions: dict[bytes, SenderSession] = {}
        self._files = MappedFiles()
        self._writer: Writer | None = None
        self._writer_lock = threading.Lock()
        self.orders: Mapping[str, Order] = {
            "session": self._open_session,
            "share": self._share,
            "nixl": self._register,
            "attach": self._attach,
            "grant": self._grant,
            "end_session": self.end,
        }

    def get(self, session: bytes) -> SenderSession | None:
        return self._sessions.get(session)

    def put(self, key: bytes, session: SenderSession) -> None:
        with self._lock:
            self._sessions[key] = session

    def pop(self, session: bytes) -> SenderSession | None:
        with self._lock:
            return self._sessions.pop(session, None)

    @property
    def delivering(self) -> bool:
        with self._lock:
            return not all(session.idle for session in self._sessions.values())

    def reap(self, now_s: float) -> None:
        """Cut what hangs, and let go of memory that nobody uses."""
        with self._lock:
            sessions = list(self._sessions.values())
        for session in sessions:
            session.reap(now_s)
        self._files.close_idle(now_s)
        if self._writer is not None:
            self._writer.close_idle(now_s)

    def _open_session(self, message: Message, fds: list[int]) -> None:
        """`leads`: credit of its deliveries is counted here."""
        session = SenderSession(message["streams"], self._lost(message["session"]))
        session.leads = message["leads"]
        self.put(message["session"], session)

    def _lost(self, session: bytes) -> Callable[[], None]:
        def lost() -> None:
            if self.pop(session) is not None:  # otherwise the gateway has ended it here
                self._answering.tell({"lost": session})

        return lost

    def _share(self, message: Message, fds: list[int]) -> None:
        """The session, which has no streams yet, is of a client that shares its memory."""
        key = message["session"]
        with open(fds[0], "rb", closefd=True) as memory_file:
            session = self._sessions.get(key)
            if session is None:
                return
            try:
                memory = ClientMemory(memory_file.fileno())
            except SharedMemoryRefusedError as error:
                log.warning("the memory of a client is of no use: %s", error)
                session.close()  # its streams are turned away when they come
                return
        placing = PlacingSession(session.streams, memory, self._files, self._lost(key))
        placing.leads = session.leads
        self.put(key, placing)
        if message["prefaulted"]:
            in_thread("populate", memory.populate)

    def _register(self, message: Message, fds: list[int]) -> None:
        """The session, which has no streams yet, is of a client that has registered its memory with NIXL."""
        key = message["session"]

        def register() -> None:
            try:
                writer = self._the_writer()
                session = self._sessions.get(key)
                if session is None:
                    raise DeliveryError("the data session has ended")
                region = Region(*message["region"])
                writer.add_peer(message["metadata"], message["agent"], region)
            except ObjectCacheError as error:
                self._answering.answer(message, error)
                return
            made = NixlSession(message["streams"], message["agent"], region, writer, self._lost(key))
            with self._lock:
                ended = self._sessions.get(key) is not session
                if not ended:
                    self._sessions[key] = made
            if ended:
                made.close()
                self._answering.answer(message, DeliveryError("the data session has ended"))
            else:
                self._answering.answer(message, agent=writer.agent.name)

        self._answering.carry_out("nixl", message, register)

    def _the_writer(self) -> Writer:
        """Made for the first client with NIXL: it takes half a second. Raises ObjectCacheError."""
        with self._writer_lock:
            if self._writer is None:
                self._writer = Writer(f"objectcache-worker-{secrets.token_hex(16)}", self._files)
            return self._writer

    def _attach(self, message: Message, fds: list[int]) -> None:
        sock = socket.socket(fileno=fds[0])
        sock.setblocking(True)
        if sock.family != socket.AF_UNIX:
            tune(sock)
        session = self._sessions.get(message["session"])
        if session is None:
            sock.close()
            return
        listening = sock.dup()
        if session.attach(message["stream"], sock):
            in_thread("listener", lambda: self._listen(message["session"], session, listening))
        else:
            listening.close()

    def _listen(self, key: bytes, session: SenderSession, sock: socket.socket) -> None:
        """Credit from the receiver; and its going away, which a stream that has nothing to send would not notice."""
        header = memoryview(bytearray(FRAME_HEADER_BYTES))
        try:
            with sock:
                while True:
                    recv_exact(sock, header)
                    frame = decode_frame(header)
                    if frame.type is not FrameType.CREDIT:
                        raise DeliveryError(f"a receiver does not send {frame.type.name} frames")
                    if session.leads:
                        session.grant(frame.delivery, frame.epoch, credit_bytes(frame))
                    else:
                        self._answering.tell({"granted": [key, frame.delivery, frame.epoch, credit_bytes(frame)]})
                        time.sleep(CREDIT_PAUSE_S)
        except ObjectCacheError:
            session.close()

    def _grant(self, message: Message, fds: list[int]) -> None:
        """Credit that came on a stream of another worker's."""
        session = self._sessions.get(message["session"])
        if session is not None:
            session.grant(message["delivery"], message["epoch"], message["total_bytes"])

    def end(self, message: Message, fds: list[int]) -> None:
        session = self.pop(message["session"])
        if session is not None:
            session.close()
