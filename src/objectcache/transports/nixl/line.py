"""The line of a session: a connection that carries nothing, by which each side sees the other's end.

UCX notices the death of a peer when it next sends something; whoever only receives is not told. The kernel ends a
connection when the process does. The worker's end of it says more: nothing of the session is in flight.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES = 5, 2, 5
"""A host that is gone says nothing: its line is dead after 15 s."""


def watch(sock: socket.socket) -> None:
    """The kernel looks whether the other side's host is there."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


class Line:
    """The worker's side. Its end shows only when nothing is in flight, and whatever then still is, fails first."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._guard = threading.Lock()
        self._flying = 0
        self._cut = False
        self._ends = 0

    def end(self) -> LineEnd:
        """For one of the session's threads. With the last of them the line is closed."""
        with self._guard:
            self._ends += 1
        return LineEnd(self, self._sock.dup())

    @contextmanager
    def flying(self) -> Iterator[None]:
        """While something is in flight. Raises BrokenPipeError when the other side may have seen the end."""
        with self._guard:
            if self._cut:
                raise BrokenPipeError("the line was cut")
            self._flying += 1
        try:
            yield
        finally:
            self._landed()

    def _landed(self) -> None:
        with self._guard:
            self._flying -= 1
            if self._cut and not self._flying:
                self._shut()

    def cut(self) -> None:
        with self._guard:
            self._cut = True
            if not self._flying:
                self._shut()

    def ended(self) -> None:
        """One end is closed."""
        with self._guard:
            self._ends -= 1
            if not self._ends:
                self._sock.close()

    def _shut(self) -> None:
        with suppress(OSError):  # it may be gone already
            self._sock.shutdown(socket.SHUT_RDWR)


class LineEnd(socket.socket):
    """What a thread has of a line, as the socket of a stream."""

    def __init__(self, line: Line, sock: socket.socket) -> None:
        super().__init__(fileno=sock.detach())
        self.line = line
        self._open = True

    def shutdown(self, how: int) -> None:
        self.line.cut()

    def close(self) -> None:
        self.line.cut()
        super().close()
        if self._open:
            self._open = False
            self.line.ended()
