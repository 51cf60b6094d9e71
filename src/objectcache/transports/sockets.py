"""Moving megabytes between sockets, files and memory, with the interpreter lock released."""

from __future__ import annotations

import ctypes
import os
import select
import socket
from contextlib import AbstractContextManager
from types import TracebackType

from objectcache.errors import GatewayUnavailableError, IntegrityError
from objectcache.stores import ObjectReader

SEND_BYTES = 4 << 20
"""How much of a whole object is brought to hand at once."""

WORDS_BYTES = 16 << 10
"""How much of words is taken at once."""

WAKE_BYTES = 512 << 10
"""How much must have arrived before a receiver of large pieces is woken."""


_send_holding = ctypes.PyDLL(None).send
_send_holding.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int)
_send_holding.restype = ctypes.c_ssize_t


def send_all(sock: socket.socket, data: bytes | memoryview, *, more: bool = False) -> None:
    """All of `data`. `more` holds it back for what follows. Raises OSError."""
    view = memoryview(data)
    flags = socket.MSG_MORE if more else 0
    while view:
        try:
            view = view[sock.send(view, flags) :]
        except BlockingIOError:
            _wait(sock, select.POLLOUT)


def send_head(sock: socket.socket, head: bytes, *, more: bool = True) -> None:
    """All of `head`, held back for what follows where there is `more`. Raises OSError.

    The interpreter lock is kept meanwhile: where many streams send, to get it back for each head would take longer than
    to send it. So nothing is waited for here but by the usual way.
    """
    flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL | (socket.MSG_MORE if more else 0)
    sent = _send_holding(sock.fileno(), head, len(head), flags)
    if sent != len(head):  # it has to wait, or fails: then it fails again
        send_all(sock, memoryview(head)[max(0, sent) :], more=more)


class Body(AbstractContextManager["Body"]):
    """`length` bytes of an object from `offset`, at hand until `close`: in files, or in memory where they are in none.

    Made before anything is said that must be followed by them. Raises what reading the object raises.
    """

    def __init__(self, reader: ObjectReader, offset: int, length: int) -> None:
        self._name = reader.info.name
        self._files = reader.files(offset, length)
        self._ranges = self._files.__enter__()
        self._at = self._used = 0
        if self._ranges is None:
            try:
                self._data = memoryview(reader.read(offset, length))
            except BaseException:
                self.close()
                raise

    def send(self, sock: socket.socket, length: int) -> None:
        """The next `length` bytes, by sendfile where it can be.

        Raises OSError for the socket, IntegrityError for a file that is cut short.
        """
        if self._ranges is None:
            send_all(sock, self._data[self._used : self._used + length])
            self._used += length
            return
        while length:
            file = self._ranges[self._at]
            wanted = min(length, file.length - self._used)
            sent = _send_file(sock, file.descriptor, file.offset + self._used, wanted)
            if sent < wanted:
                message = f"{self._name} is truncated: {sent} of {wanted} bytes of a range could be read"
                raise IntegrityError(message, segment=self._name)
            length -= wanted
            self._used += wanted
            if self._used == file.length:
                self._at, self._used = self._at + 1, 0

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
        count = min(SEND_BYTES, stop - at)
        with Body(reader, at, count) as body:
            body.send(sock, count)


def _send_file(sock: socket.socket, descriptor: int, offset: int, length: int) -> int:
    """How many of `length` bytes there were to send. Raises OSError."""
    target, sent = sock.fileno(), 0
    while sent < length:
        try:
            count = os.sendfile(target, descriptor, offset + sent, length - sent)
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
        got += _received(count)


class PieceReceiver:
    """Fills memory from a blocking socket, large pieces without being woken for every packet of them.

    Waking a thread that sleeps costs more than copying what one packet brings, so the kernel is told how much to wait
    for (SO_RCVLOWAT): never more than what is missing, which the sender has begun and will send.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._awaited = 1

    def __call__(self, out: memoryview) -> None:
        """Fill `out`. Raises GatewayUnavailableError when the peer hangs up before."""
        sock, got, wanted = self._sock, 0, len(out)
        try:
            while wanted - got > WAKE_BYTES // 8:
                # Polled for: recv itself, once it has part of it, would wait for as much again.
                self._await(min(WAKE_BYTES, wanted - got))
                self._poll.poll()
                try:
                    got += _received(sock.recv_into(out[got:], wanted - got, socket.MSG_DONTWAIT))
                except BlockingIOError:
                    continue
            if got < wanted:
                self._await(1)
        except OSError as error:
            raise GatewayUnavailableError(f"the data connection broke: {error}") from error
        if got < wanted:
            recv_exact(sock, out[got:])

    def _await(self, count: int) -> None:
        if count != self._awaited:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
            self._awaited = count


class WordReceiver:
    """Fills memory from a blocking socket that carries words of some hundred bytes: one call takes all that is there.

    Each call gives the interpreter lock up, and to get it back beside many threads takes longer than the call.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._memory = memoryview(bytearray(WORDS_BYTES))
        self._at_hand = self._memory[:0]

    def __call__(self, out: memoryview) -> None:
        """Fill `out`. Raises GatewayUnavailableError when the peer hangs up before."""
        while out:
            if not self._at_hand:
                try:
                    count = self._sock.recv_into(self._memory)
                except OSError as error:
                    raise GatewayUnavailableError(f"the data connection broke: {error}") from error
                self._at_hand = self._memory[: _received(count)]
            count = min(len(out), len(self._at_hand))
            out[:count] = self._at_hand[:count]
            out, self._at_hand = out[count:], self._at_hand[count:]


def _received(count: int) -> int:
    if count == 0:
        raise GatewayUnavailableError("the data connection was closed by the other side")
    return count


def _wait(sock: socket.socket, event: int) -> None:
    """A socket shared with an event loop does not block: wait for it here. Raises TimeoutError past its timeout."""
    poll = select.poll()
    poll.register(sock, event)
    timeout_s = sock.gettimeout()
    if not poll.poll(None if not timeout_s else timeout_s * 1000):
        raise TimeoutError("the peer does not take or give any data")
