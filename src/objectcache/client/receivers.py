"""Who receives: threads of this process, or a process of its own on shared memory. One interface."""

from __future__ import annotations

import contextlib
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable

from objectcache.errors import GatewayUnavailableError, ObjectCacheError
from objectcache.transports.receiver import VERIFY_ALL, Expected, Receiver, stream_error
from objectcache.transports.sockets import PieceReceiver
from objectcache.transports.verification import Verification


class Receivers(ABC):
    """The receiving side of one session's streams. Thread-safe.

    `on_lost()` is called once, when the first stream ends: the session is then of no use any more.
    """

    @abstractmethod
    def attach(self, stream: int, sock: socket.socket) -> None:
        """Receive from `sock`, which is the receivers' from here."""

    @abstractmethod
    def expect(self, expected: Expected, offset: int) -> None:
        """Await a delivery; `offset` is where its memory begins in the buffer pool. Raises GatewayUnavailableError."""

    @abstractmethod
    def cancel(self, delivery: int, epoch: int) -> None:
        """Stop writing; `on_fenced` follows as soon as no stream is in the middle of a frame of it."""

    @abstractmethod
    def fail(self, delivery: int, error: ObjectCacheError) -> None:
        """The delivery will not come."""

    @abstractmethod
    def cut(self) -> None:
        """Break off every stream: what hangs in a frame lets go of its memory."""

    @abstractmethod
    def kill(self) -> None:
        """End what did not let go even then, as far as that can be done."""

    @abstractmethod
    def close(self) -> None: ...


class ThreadReceivers(Receivers):
    """A thread per stream."""

    def __init__(self, on_lost: Callable[[], None], verify: Verification = VERIFY_ALL, *, hold_s: float = 0.0) -> None:
        """`hold_s` as for Receiver."""
        self._receiver = Receiver(verify, hold_s)
        self._on_lost = on_lost
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._lost = False

    def attach(self, stream: int, sock: socket.socket) -> None:
        with self._lock:
            self._sockets.append(sock)
        threading.Thread(target=self._run, args=(stream, sock), name=f"receive-{stream}", daemon=True).start()

    def _run(self, stream: int, sock: socket.socket) -> None:
        try:
            self._receiver.run(stream, PieceReceiver(sock))
        except (ObjectCacheError, OSError) as error:
            with self._lock:
                first, self._lost = not self._lost, True
            if first:
                self._on_lost()  # before anybody hears of a failure, and asks again
            self.cut()  # a session that misses a stream misses part of every layer
            self._receiver.lost(stream, stream_error(error))
            with self._lock:
                self._sockets.remove(sock)
            sock.close()

    def expect(self, expected: Expected, offset: int) -> None:
        self._receiver.expect(expected)
        if self._lost:
            error = GatewayUnavailableError("the data connections are gone")
            self._receiver.fail(expected.delivery, error)
            raise error

    def cancel(self, delivery: int, epoch: int) -> None:
        self._receiver.cancel(delivery, epoch)

    def fail(self, delivery: int, error: ObjectCacheError) -> None:
        self._receiver.fail(delivery, error)

    def cut(self) -> None:
        with self._lock:
            for sock in self._sockets:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def kill(self) -> None:
        self.cut()

    def close(self) -> None:
        self.cut()


def error_fields(error: ObjectCacheError) -> dict[str, object]:
    """An error as part of a message; `errors.error_from_code` turns it back."""
    return {"code": error.code, "message": str(error), "status": error.status}
