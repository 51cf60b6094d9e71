"""What processes of one host say to each other: length-prefixed msgpack maps over a Unix socket, with file descriptors
passed beside them (SCM_RIGHTS).
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import socket
import threading
from collections import deque
from collections.abc import Sequence
from struct import Struct
from typing import Any

import msgpack

from objectcache.errors import ObjectCacheError, error_from_code

_LENGTH = Struct("<I")
_MAX_FDS = 8
_ANCILLARY_BYTES = socket.CMSG_LEN(_MAX_FDS * array.array("i").itemsize)
_READ_BYTES = 1 << 16
Message = dict[str, Any]


class BlockingChannel:
    """An end without an event loop: one thread receives, any thread sends."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sending = threading.Lock()
        self._data = bytearray()
        self._fds: list[int] = []
        self._received: deque[tuple[Message, list[int]]] = deque()

    def receive(self) -> tuple[Message, list[int]] | None:
        """The next message and its descriptors, which the caller owns. None when the control process is gone."""
        while not self._received:
            try:
                data, ancillary, _, _ = self._sock.recvmsg(_READ_BYTES, _ANCILLARY_BYTES)
            except OSError:
                return None
            if not data:
                return None
            self._take(data, [fd for _, _, fds in ancillary for fd in array.array("i", fds)])
        return self._received.popleft()

    @property
    def at_hand(self) -> bool:
        """Whether `receive` has a message already: several may be read at once, and then the socket shows nothing."""
        return bool(self._received)

    def _take(self, data: bytes, fds: list[int]) -> None:
        """`fds` are of the last message that `data` begins: a read does not go on behind what brings any."""
        if self._data:
            self._data += data
        whole, at = self._data or data, 0
        while len(whole) - at >= _LENGTH.size:
            stop = at + _LENGTH.size + _LENGTH.unpack_from(whole, at)[0]
            if stop > len(whole):
                break
            message = msgpack.unpackb(memoryview(whole)[at + _LENGTH.size : stop], strict_map_key=False)
            self._received.append((message, self._fds))
            self._fds, at = [], stop
        self._data = bytearray(memoryview(whole)[at:])
        if self._data or not fds:
            self._fds += fds
        else:
            self._received[-1][1].extend(fds)

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Lost without an error when the other side is gone: the receiving thread notices. `fds` stay the caller's."""
        self.send_packed(pack(message), fds)

    def send_packed(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """`send` what `pack` has made, for who tells several the same."""
        view = memoryview(data)
        with self._sending:
            try:
                if fds:
                    view = view[socket.send_fds(self._sock, [view], fds) :]
                self._sock.sendall(view)
            except OSError:
                # A part may have been sent, after which nothing makes sense.
                with contextlib.suppress(OSError):
                    self._sock.shutdown(socket.SHUT_RDWR)


class AsyncChannel:
    """The control process's end. Sending never blocks the event loop: a worker may be stopped."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._outgoing: deque[tuple[memoryview, Sequence[int]]] = deque()
        self._buffer = bytearray()
        self._waiting = False
        """Whether the loop calls `_flush` when there is room again."""
        self._closed = False

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Queue a message, unless the worker is gone. `fds` stay the caller's to close, and are duplicated here until
        they are sent."""
        if self._closed:
            return
        duplicates = [_duplicate(fd) for fd in fds]
        self._outgoing.append((memoryview(pack(message)), duplicates))
        if len(self._outgoing) == 1:
            self._flush()

    def _flush(self) -> None:
        while self._outgoing and not self._closed:
            data, fds = self._outgoing[0]
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            try:
                sent = self._sock.sendmsg([data], ancillary)
            except BlockingIOError:
                if not self._waiting:
                    self._loop.add_writer(self._sock, self._flush)
                    self._waiting = True
                return
            except OSError:
                self._drop()
                return
            _close_all(fds)
            if sent < len(data):
                self._outgoing[0] = (data[sent:], ())
            else:
                self._outgoing.popleft()
        self._stop_waiting()

    async def receive(self) -> Message | None:
        """The next message; None when the worker is gone."""
        while True:
            if len(self._buffer) >= _LENGTH.size:
                size = _LENGTH.unpack_from(self._buffer)[0] + _LENGTH.size
                if len(self._buffer) >= size:
                    data = bytes(self._buffer[_LENGTH.size : size])
                    del self._buffer[:size]
                    message: Message = msgpack.unpackb(data, strict_map_key=False)
                    return message
            try:
                more = await self._loop.sock_recv(self._sock, 1 << 16)
            except OSError:
                return None
            if not more:
                return None
            self._buffer += more

    def close(self) -> None:
        self._drop()
        self._sock.close()

    def _drop(self) -> None:
        self._closed = True
        self._stop_waiting()
        for _, fds in self._outgoing:
            _close_all(fds)
        self._outgoing.clear()

    def _stop_waiting(self) -> None:
        if self._waiting:  # the loop looks its descriptors up for it, which takes longer than a message
            self._loop.remove_writer(self._sock)
            self._waiting = False


def pack(message: Message) -> bytes:
    """A message as it goes over the socket."""
    data: bytes = msgpack.packb(message)
    return _LENGTH.pack(len(data)) + data


def error_fields(error: ObjectCacheError) -> Message:
    """An error as part of a message; `told_error` turns it back."""
    return {"code": error.code, "message": str(error), "status": error.status}


def told_error(message: Message) -> ObjectCacheError | None:
    """The error that is part of a message, if there is one."""
    return error_from_code(message["code"], message["message"], message["status"]) if "code" in message else None


def _duplicate(fd: int) -> int:
    return socket.dup(fd)


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        socket.close(fd)
