"""Control streams byte by byte."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from objectcache.errors import ObjectCacheError
from objectcache.messages import Asked
from objectcache.messages.control import CONTROL_PROTOCOL, SESSION_HEADER, ControlFrame, ControlReader, control_frame
from objectcache.s3 import Credentials, parse_error, sign_headers
from tests.gateway.process import BUCKET, Answer, GatewayProcess

UPGRADE = {"Connection": "Upgrade", "Upgrade": CONTROL_PROTOCOL}
PATH = f"/{BUCKET}?{CONTROL_PROTOCOL}"


class RawControl:
    """One that is open."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._reader = ControlReader()

    def read(self) -> ControlFrame | None:
        """The next answer; None: the stream has ended."""
        while (frame := self._reader.take()) is None:
            data = self.sock.recv(1 << 16)
            if not data:
                return None
            self._reader.feed(data)
        return frame

    def ask(self, body: bytes, *, kind: int = Asked.MATCH_AND_RETRIEVE, id: int = 1) -> ControlFrame:
        self.sock.sendall(control_frame(kind, id, body))
        answer = self.read()
        assert answer is not None
        assert answer.id == id
        return answer

    def ended(self) -> bool:
        try:
            return self.read() is None
        except ConnectionResetError:  # it had not read all
            return True


def error_of(frame: ControlFrame) -> ObjectCacheError:
    assert frame.code >= 300
    return parse_error(frame.code, frame.body)


@contextmanager
def control_of(gateway: GatewayProcess, session: bytes, key: Credentials | None = None) -> Iterator[RawControl]:
    named = {SESSION_HEADER: session.hex()}
    signed = sign_headers(key, "GET", gateway.host, PATH, named, payload=b"") if key is not None else {}
    connection = gateway.connect()
    try:
        connection.request("GET", PATH, headers={**named, **signed, **UPGRADE})
        response = connection.getresponse()
        assert response.status == 101
        assert response.headers["Upgrade"] == CONTROL_PROTOCOL
        yield RawControl(connection.sock)
    finally:
        connection.close()


def refused(gateway: GatewayProcess, session: bytes, key: Credentials | None = None, *, upgrade: bool = True) -> Answer:
    headers = {SESSION_HEADER: session.hex(), **(UPGRADE if upgrade else {})}
    return gateway.ask("GET", PATH, headers=headers, key=key)
