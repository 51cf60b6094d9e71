"""Data sessions: the striped connections of one client, from the listening socket into a data worker."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

from objectcache.descriptor import ID_BYTES, Target, TargetKind
from objectcache.errors import (
    DataConnectionsRefusedError,
    DescriptorError,
    ObjectCacheError,
    RequestError,
    SessionNotFoundError,
)
from objectcache.frames import FRAME_HEADER_BYTES, Frame, FrameType, decode_frame
from objectcache.gateway.carriers import Carriers
from objectcache.gateway.listener import BACKLOG, Listener
from objectcache.layout import ALIGNMENT_BYTES
from objectcache.transports.connecting import listen, settle
from objectcache.workers.pool import WorkerHandle

log = logging.getLogger(__name__)

MAX_STREAMS = 64


@dataclass(eq=False)
class Session:
    """`id` is the secret that binds data connections to the request that opened the session, and `access_key` who sent
    that: nobody else can have anything delivered there. `kind` is of its connections, once it has any; `memory_bytes`
    are what the client shares, or has registered. `plain`: whether connections may be TCP. `nixl_agent` is what its
    NIXL agent is called: only who was told may bring one, and under no other name."""

    id: bytes
    bucket: str
    access_key: str
    streams: int
    carriers: Carriers
    plain: bool = True
    attached: int = 0
    kind: TargetKind | None = None
    memory_bytes: int = 0
    nixl_agent: str = ""
    control: asyncio.Transport | None = None
    """Of its control stream, which ends with it."""
    control_signatures: set[str] = field(default_factory=set)
    """With which one was opened: whoever has seen such a request go by is not to open another."""

    @property
    def connections(self) -> int:
        """How many it is to have: with NIXL, its line only."""
        return 1 if self.kind is TargetKind.NIXL else self.streams

    def claim(self, kind: TargetKind) -> None:
        """Connections, or deliveries, of `kind`. Raises RequestError where it has others, or may not have these."""
        if kind in (TargetKind.TCP, TargetKind.NIXL) and not self.plain:
            raise DataConnectionsRefusedError("this gateway has no data connections: they have no TLS")
        if self.kind not in (None, kind):
            raise DescriptorError(f"the session's target is {self.kind}, not {kind}")
        self.kind = kind

    def check(self, target: Target, total_bytes: int) -> None:
        """Raises RequestError unless `total_bytes` can be delivered to `target`, which names this session."""
        if target.kind is TargetKind.TCP:
            self.claim(target.kind)
        elif self.kind is not target.kind:
            raise DescriptorError(f"the session has no memory for target {target.kind}")
        elif target.offset % ALIGNMENT_BYTES or target.offset + total_bytes > self.memory_bytes:
            raise DescriptorError(
                f"{total_bytes} bytes at {target.offset} do not lie, page-aligned, in the session's {self.memory_bytes}"
            )


class SessionTable:
    """All sessions of a gateway. Lives on the event loop."""

    def __init__(self, attach_s: float) -> None:
        """`attach_s`: how long a session waits for its connections."""
        self._attach_s = attach_s
        self._sessions: dict[bytes, Session] = {}

    def open(
        self, workers: Sequence[WorkerHandle], bucket: str, access_key: str, streams: int, *, plain: bool = True
    ) -> Session:
        """A new session on these workers, or the first of them where it has fewer streams. Raises RequestError for an
        absurd number of streams."""
        if not 1 <= streams <= MAX_STREAMS:
            raise RequestError(f"a session has 1 to {MAX_STREAMS} streams, got {streams}")
        id = secrets.token_bytes(ID_BYTES)
        session = Session(id, bucket, access_key, streams, Carriers(workers[:streams], id, streams), plain)
        self._sessions[session.id] = session
        session.carriers.open()
        asyncio.get_running_loop().call_later(self._attach_s, self._check_attached, session)
        return session

    def get(self, id: bytes, bucket: str, access_key: str) -> Session:
        """Raises SessionNotFoundError, also for a session of another bucket or access key."""
        session = self._sessions.get(id)
        if session is None or (session.bucket, session.access_key) != (bucket, access_key):
            raise SessionNotFoundError("the data session is unknown: it ended, or is another gateway's; open a new one")
        return session

    def close(self, session: Session) -> None:
        if self._sessions.pop(session.id, None) is not None:
            if session.control is not None:
                session.control.abort()
            session.carriers.end()

    def lost(self, id: bytes) -> None:
        """A worker says that its connections of the session are gone: without them the others are of no use."""
        session = self._sessions.get(id)
        if session is not None:
            self.close(session)

    def granted(self, id: bytes, delivery: int, epoch: int, total_bytes: int) -> None:
        """A client allows more, and said so to a worker that does not need to know."""
        session = self._sessions.get(id)
        if session is not None:
            session.carriers.grant(delivery, epoch, total_bytes)

    def _check_attached(self, session: Session) -> None:
        if session.attached < session.connections and session.id in self._sessions:
            log.info("closing a session that got %d of %d connections", session.attached, session.connections)
            self.close(session)

    def greeted(self, hello: Frame) -> Session:
        """The session that a connection's first frame names. Raises SessionNotFoundError."""
        session = self._sessions.get(hello.digest) if hello.type is FrameType.HELLO else None
        if session is None or hello.first_chunk >= session.connections:
            raise SessionNotFoundError("the connection names no session that is open here, or no stream of it")
        if session.kind is TargetKind.NIXL and not session.memory_bytes:
            raise SessionNotFoundError("the session's memory is not registered yet: its line comes after that")
        return session

    def __len__(self) -> int:
        return len(self._sessions)


class DataListener(Listener):
    """Accepts data connections, reads who they are, and hands them to the session's workers."""

    def __init__(
        self, sessions: SessionTable, host: str, port: int, *, hello_s: float, congestion_control: str = ""
    ) -> None:
        """`hello_s`: how long a connection may take to say whose it is; `congestion_control` from other hosts."""
        self._hello_s = hello_s
        self._congestion_control = congestion_control
        self._sessions = sessions
        super().__init__(listen(host, port, BACKLOG), "data connection")

    @property
    def port(self) -> int:
        port: int = self._socket.getsockname()[1]
        return port

    async def greet(self, sock: socket.socket) -> None:
        settle(sock, self._congestion_control)
        try:
            hello = await asyncio.wait_for(_read_hello(sock), self._hello_s)
            frame = decode_frame(hello)
            session = self._sessions.greeted(frame)
            if session.kind is not TargetKind.NIXL:  # its line
                session.claim(TargetKind.TCP)
        except (OSError, TimeoutError, ObjectCacheError) as error:
            log.info("a data connection was turned away: %s", error)
            return
        session.attached += 1
        session.carriers.attach(frame.first_chunk, sock.fileno())


async def _read_hello(sock: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < FRAME_HEADER_BYTES:
        more = await loop.sock_recv(sock, FRAME_HEADER_BYTES - len(data))
        if not more:
            raise ConnectionError("closed before hello")
        data += more
    return data
