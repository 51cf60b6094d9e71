"""Moving megabytes between sockets, files and memory, with the interpreter lock released."""

from __future__ import annotations

import os
import select
import socket
from contextlib import AbstractContextManager
from types import TracebackType

from objectcache.errors import GatewayUnavailableError, IntegrityError
from objectcache.stores import FileRange, ObjectReader

SEND_BYTES = 4 << 20
"""How much of a whole object is brought to hand at once."""


def tune(sock: socket.socket) -> None:
    """What both ends of a data connection want: no delay for small frames, no waiting for ever on a dead peer."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)
    # What is queued in the kernel cannot be overtaken by a layer that is needed sooner.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 256 << 10)


def send_all(sock: socket.socket, data: bytes | memoryview, *, more: bool = False) -> None:
    """All of `data`. `more` holds it back for what follows. Raises OSError."""
    view = memoryview(data)
    flags = socket.MSG_MORE if more else 0
    while view:
        try:
            view = view[sock.send(view, flags) :]
        except BlockingIOError:
            _wait(sock, select.POLLOUT)


class Body(AbstractContextManager["Body"]):
    """`length` bytes of an object from `offset`, at hand until `close`: in files, or in memory where they are in none.

    Made before anything is said that must be followed by them. Raises what reading the object raises.
    """

    def __init__(self, reader: ObjectReader, offset: int, length: int) -> None:
        self._name = reader.info.name
        self._files = reader.files(offset, length)
        self._ranges = self._files.__enter__()
        self._data = b""
        if self._ranges is None:
            try:
                self._data = reader.read(offset, length)
            except BaseException:
                self.close()
                raise

    def send(self, sock: socket.socket) -> None:
        """By sendfile where it can be. Raises OSError for the socket, IntegrityError for a file that is cut short."""
        if self._ranges is None:
            send_all(sock, self._data)
            return
        for file in self._ranges:
            sent = _send_file(sock, file)
            if sent < file.length:
                message = f"{self._name} is truncated: {sent} of {file.length} bytes of a range could be read"
                raise IntegrityError(message, segment=self._name)

    def close(self) -> None:
        self._files.__exit__(None, None, None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def send_range(sock: socket.socket, reader: ObjectReader, offset: int, length: int, *, ahead_bytes: int = 0) -> None:
    """`length` bytes of an object from `offset`, of which `ahead_bytes` are announced before they are sent.

    Raises OSError for the socket, IntegrityError when the object is shorter, StoreError when it cannot be read.
    """
    stop = announced = offset
    stop += length
    for at in range(offset, stop, SEND_BYTES):
        until = min(stop, at + ahead_bytes)
        if until > announced:
            reader.prefetch(announced, until - announced)
            announced = until
        with Body(reader, at, min(SEND_BYTES, stop - at)) as body:
            body.send(sock)


def _send_file(sock: socket.socket, file: FileRange) -> int:
    """How many bytes there were to send. Raises OSError."""
    target, sent = sock.fileno(), 0
    while sent < file.length:
        try:
            count = os.sendfile(target, file.descriptor, file.offset + sent, file.length - sent)
        except BlockingIOError:
            _wait(sock, select.POLLOUT)
            continue
        if count == 0:
            break
        sent += count
    return sent


def recv_exact(sock: socket.socket, out: memoryview) -> None:
    """Fill `out`. Raises GatewayUnavailableError when the peer hangs up before."""
    got, wanted = 0, len(out)
    while got < wanted:
        try:
            count = sock.recv_into(out[got:], wanted - got, socket.MSG_WAITALL)
        except BlockingIOError:
            _wait(sock, select.POLLIN)
            continue
        except OSError as error:
            raise GatewayUnavailableError(f"the data connection broke: {error}") from error
        if count == 0:
            raise GatewayUnavailableError("the data connection was closed by the other side")
        got += count


def _wait(sock: socket.socket, event: int) -> None:
    """A socket shared with an event loop does not block: wait for it here. Raises TimeoutError past its timeout."""
    poll = select.poll()
    poll.register(sock, event)
    timeout_s = sock.gettimeout()
    if not poll.poll(None if not timeout_s else timeout_s * 1000):
        raise TimeoutError("the peer does not take or give any data")
