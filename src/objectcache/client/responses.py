"""What a gateway responds, as it is read from a connection.

`http.client` parses heads by the email package. That is some 150 calls of code that nobody has used since the request
before, while the frames of a delivery wait for its answer: so the common head is read here, and the others there.
"""

from __future__ import annotations

import http.client
import io
import re
import socket
from collections.abc import Mapping
from typing import Any

MOST_PLAIN_BYTES = 1 << 20
"""Larger bodies are read as they come, by http.client."""
_CONTINUE = b"HTTP/1.1 100"
_READ_BYTES = 1 << 16
_MAX_LINE_BYTES = 8192
_MAX_HEAD_BYTES = 1 << 16
_BEGINNING = b"HTTP/1."
_END = re.compile(rb"\n\r?\n")
"""Of a head. http.client takes lines that end in a bare LF too."""
_STATUS_LINE = re.compile(r"HTTP/1\.1 ([2-5][0-9]{2}) [^\r\n]*")
_FIELD = re.compile(r"([!-9;-~]+):([^\r\n]*)")
"""A bare CR or LF would be the end of a line to http.client; so would a name of other characters, of all fields."""
_BODILESS = (204, 304)


class PlainResponse:
    """A small response of a length that is known, on a connection that goes on. As http.client's."""

    will_close = False

    def __init__(self, sock: socket.socket, status: int, headers: Mapping[str, str], length: int, begun: bytes) -> None:
        """`headers` by their names in lower case; `begun` is what has been read of the body."""
        self.status = status
        self.headers = headers
        self._sock = sock
        self._left = length
        self._begun = begun

    def read(self) -> bytes:
        """The rest of the body. Raises OSError, http.client.IncompleteRead."""
        data, self._begun = self._begun, b""
        while len(data) < self._left:
            more = self._sock.recv(self._left - len(data))
            if not more:
                raise http.client.IncompleteRead(data, self._left - len(data))
            data += more
        self._left = 0
        return data

    def readinto(self, out: memoryview) -> int:
        """How many bytes; 0 at the end. Raises OSError."""
        count = min(len(out), self._left)
        if self._begun:
            count = min(count, len(self._begun))
            out[:count], self._begun = self._begun[:count], self._begun[count:]
        elif count:
            count = self._sock.recv_into(out[:count])
        self._left -= count
        return count

    def isclosed(self) -> bool:
        """Whether all of it has been read."""
        return not self._left

    def close(self) -> None:
        """The connection is the caller's to close."""


Response = PlainResponse | http.client.HTTPResponse


def answer(connection: http.client.HTTPConnection, method: str) -> Response:
    """The head of the response to a request. Raises OSError, http.client.HTTPException."""
    data = b""
    # Who says something else may not go on: http.client sees that at the line's end.
    while _BEGINNING.startswith(data[: len(_BEGINNING)]) and not _END.search(data) and len(data) < _MAX_HEAD_BYTES:
        more = connection.sock.recv(_READ_BYTES)
        if not more:
            if not data:
                raise http.client.RemoteDisconnected("the connection was closed without a response")
            break
        data += more
    plain = _plain(connection.sock, data) if method != "HEAD" else None
    if plain is not None:
        return plain
    response = _by_http_client(connection.sock, data, method)
    if response.will_close:
        connection.close()  # its socket stays open as long as the response reads from it
    return response


def _plain(sock: socket.socket, data: bytes) -> PlainResponse | None:
    """None where there is anything about it that http.client knows better."""
    head, end, begun = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    status_line = _STATUS_LINE.fullmatch(first)
    headers: dict[str, str] = {}
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None or (name := field[1].lower()) in headers:
            return None
        headers[name] = field[2].strip(" \t")
    length = headers.get("content-length", "")
    if not end or status_line is None or not length.isascii() or not length.isdigit() or len(length) > 7:
        return None
    if "transfer-encoding" in headers or headers.get("connection", "keep-alive").lower() != "keep-alive":
        return None
    status, size = int(status_line[1]), int(length)
    if status in _BODILESS or size > MOST_PLAIN_BYTES or len(begun) > size:
        return None
    return PlainResponse(sock, status, headers, size, begun)


def awaited(connection: http.client.HTTPConnection, method: str) -> http.client.HTTPResponse | None:
    """After a request with `Expect: 100-continue`: the response, or None when the body may be sent.

    Raises OSError, http.client.HTTPException.
    """
    line = _read_line(connection.sock)
    if line.startswith(_CONTINUE):
        while line != b"\r\n":
            line = _read_line(connection.sock)
        return None
    return _by_http_client(connection.sock, line, method)


def _by_http_client(sock: socket.socket, data: bytes, method: str) -> http.client.HTTPResponse:
    """The response that begins with `data`, which has been read. Raises OSError, http.client.HTTPException."""
    # Of a socket it wants only `makefile`.
    response = http.client.HTTPResponse(_Begun(sock, data), method=method)  # type: ignore[arg-type]
    try:
        response.begin()
    except BaseException:
        response.close()
        raise
    return response


def _read_line(sock: socket.socket) -> bytes:
    """Byte by byte: what follows is somebody else's to read."""
    line = b""
    while not line.endswith(b"\n"):
        byte = sock.recv(1)
        if not byte or len(line) > _MAX_LINE_BYTES:
            raise ConnectionError("no answer to Expect: 100-continue")
        line += byte
    return line


class _Begun(io.RawIOBase):
    """A socket of which something has been read already. It stays open until this is closed too."""

    def __init__(self, sock: socket.socket, data: bytes) -> None:
        self._raw, self._data = sock.makefile("rb", buffering=0), data

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, out: Any) -> int | None:
        if not self._data:
            return self._raw.readinto(out)
        count = min(len(out), len(self._data))
        out[:count], self._data = self._data[:count], self._data[count:]
        return count

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()
