"""The receiving side where a worker of this host places layers in the pool's memory: threads that only verify."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

from objectcache.client.receivers import Receivers
from objectcache.errors import GatewayUnavailableError, ObjectCacheError
from objectcache.transports.receiver import Expected, stream_error
from objectcache.transports.shared_memory import PlacedReceiver
from objectcache.transports.sockets import recv_exact
from objectcache.transports.verification import Verification


class SharedReceivers(Receivers):
    """A thread per stream. What has been expected may be written until the worker says that it is over, or is seen to
    have let go of every stream: cutting asks for that, and nothing here can enforce it."""

    def __init__(self, on_lost: Callable[[], None], verify: Verification) -> None:
        self._receiver = PlacedReceiver(verify)
        self._on_lost = on_lost
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._lost = False

    def attach(self, stream: int, sock: socket.socket) -> None:
        with self._lock:
            self._sockets.append(sock)
        threading.Thread(target=self._run, args=(stream, sock), name=f"placed-{stream}", daemon=True).start()

    def _run(self, stream: int, sock: socket.socket) -> None:
        try:
            self._receiver.run(stream, lambda out: recv_exact(sock, out))
        except (ObjectCacheError, OSError) as error:
            reason = stream_error(error)
        self.cut()  # a session that misses a stream misses part of every layer
        self._receiver.fail_all(reason)
        _read_to_end(sock)
        self._receiver.lost(stream, reason)
        with self._lock:
            self._sockets.remove(sock)
        sock.close()

    def expect(self, expected: Expected, offset: int) -> None:
        self._receiver.expect(expected)
        if self._lost:
            error = GatewayUnavailableError("the connections to the gateway are gone")
            self._receiver.withdraw(expected.delivery, error)
            raise error

    def cancel(self, delivery: int, epoch: int) -> None:
        self._receiver.cancel(delivery, epoch)

    def fail(self, delivery: int, error: ObjectCacheError) -> None:
        self._receiver.withdraw(delivery, error)

    def cut(self) -> None:
        with self._lock:
            first, self._lost = not self._lost, True
            sockets = list(self._sockets)
        if first:
            self._on_lost()  # before anybody hears of a failure, and asks again
        for sock in sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)  # its end is still to be seen

    def kill(self) -> None:
        self.cut()

    def close(self) -> None:
        self.cut()


def _read_to_end(sock: socket.socket) -> None:
    """Return when the other side has closed: on a Unix socket, an error (ECONNRESET) says the same."""
    with contextlib.suppress(OSError):
        while sock.recv(1 << 16):
            pass
