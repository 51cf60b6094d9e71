"""Sessions whose every connection is read frame by frame, for tests of what comes where."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from objectcache.cache import Match
from objectcache.descriptor import Target, TargetKind
from objectcache.errors import ObjectCacheError, SessionNotFoundError
from objectcache.frames import (
    FRAME_HEADER_BYTES,
    MAX_FRAME_BYTES,
    Frame,
    FrameType,
    decode_error,
    decode_frame,
    hello_frame,
)
from objectcache.messages import CancelAnswer, CancelRequest, SessionAnswer
from objectcache.transports.sockets import recv_exact
from tests.gateway.process import GatewayProcess, eventually
from tests.gateway.raw import ask, connected, descriptor_of, open_session


@dataclass
class Stream:
    """One connection, read frame by frame: `data` are the frames that came; `last` is the last word."""

    sock: socket.socket
    data: list[Frame] = field(default_factory=list)
    last: FrameType | None = None
    error: ObjectCacheError | None = None

    def read(self) -> None:
        """To the last word of the delivery."""
        scratch = memoryview(bytearray(MAX_FRAME_BYTES + (1 << 16)))
        head = scratch[:FRAME_HEADER_BYTES]
        while self.last is None:
            recv_exact(self.sock, head)
            frame = decode_frame(head)
            rest = scratch[: frame.extra * 16 + frame.data_bytes]
            recv_exact(self.sock, rest)
            if frame.type is FrameType.DATA:
                self.data.append(frame)
                continue
            self.last = frame.type
            if frame.type is FrameType.ERROR:
                self.error = decode_error(rest)


@dataclass
class Connections:
    """All of a session."""

    session: SessionAnswer
    streams: list[Stream]

    def descriptor(self, match: Match, **fields: object) -> bytes:
        target = Target(TargetKind.TCP, self.session.session)
        return descriptor_of(match, target=target, lease=b"", **fields).encode()

    def read(self) -> None:
        threads = [threading.Thread(target=stream.read) for stream in self.streams]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20.0)
        assert all(stream.last is not None for stream in self.streams)

    def cancel(self, gateway: GatewayProcess) -> bool:
        body = CancelRequest(self.session.session, 1, 0, 5.0).encode()
        return CancelAnswer.decode(ask(gateway, "kv-delivery", body, method="DELETE").body).quiet

    def silent(self, within_s: float) -> bool:
        """Nothing comes on any connection."""
        return not select.select([stream.sock for stream in self.streams], [], [], within_s)[0]


@contextmanager
def connections(gateway: GatewayProcess, streams: int) -> Iterator[Connections]:
    session = open_session(gateway, streams)
    with ExitStack() as stack:
        found = []
        for number in range(streams):
            sock = stack.enter_context(connected(session, hello_frame(session.session, number)))
            sock.settimeout(20.0)
            found.append(Stream(sock))
        yield Connections(session, found)
    gone = SessionNotFoundError.code
    body = CancelRequest(session.session, 1, 0, 0.0).encode()

    def ended() -> bool:
        answer = ask(gateway, "kv-delivery", body, method="DELETE")
        return answer.status != 200 and answer.error["Code"] == gone

    eventually(ended, "the session ends with its client")
