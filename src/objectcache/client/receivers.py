"""Who receives: threads of this process, for striped connections or for shared memory. One interface for all.

`process_receivers` has the process of its own.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from objectcache.errors import GatewayUnavailableError, ObjectCacheError
from objectcache.layout import DeliveryGeometry, PartShape
from objectcache.transports.receiver import VERIFY_ALL, Expected, ExpectedPart, Receiver, stream_error
from objectcache.transports.shared_memory import PlacedReceiver
from objectcache.transports.sockets import PieceReceiver, WordReceiver
from objectcache.transports.verification import Verification


class Receivers(ABC):
    """The receiving side of one session's streams. Thread-safe.

    `on_lost()` is called once, when the first stream ends: the session is then of no use any more.
    """

    holds = False
    """Whether frames that come before `expect` wait for it."""

    @abstractmethod
    def attach(self, stream: int, sock: socket.socket) -> None:
        """Receive from `sock`, which is the receivers' from here."""

    @abstractmethod
    def expect(self, expected: Expected, offset: int) -> None:
        """Await a delivery; `offset` is where its memory begins in the buffer pool. Raises GatewayUnavailableError."""

    def foretell(
        self, expected: Expected, geometry: DeliveryGeometry, parts: Sequence[ExpectedPart], offset: int
    ) -> None:
        """Where this `holds`: that will probably come, or a prefix of it. `confirm` follows, or `shape`, `forget` or
        `cancel`; nothing is awaited or written before."""
        raise NotImplementedError("frames do not wait here")

    def forget(self, expected: Expected) -> None:
        """Where this `holds`: what was foretold of it, if anything, does not come."""
        raise NotImplementedError("frames do not wait here")

    def confirm(
        self, expected: Expected, parts: Sequence[ExpectedPart], shapes: Sequence[PartShape], layers_per_unit: int
    ) -> bool:
        """Where this `holds`: that comes. Whether it is awaited now, because it was foretold; sections may land at
        once, and `shape` or `cancel` is still to follow. Otherwise what was foretold is forgotten."""
        raise NotImplementedError("frames do not wait here")

    @abstractmethod
    def shape(self, expected: Expected, geometry: DeliveryGeometry, parts: Sequence[ExpectedPart], offset: int) -> None:
        """It is known now what comes of a delivery without a geometry, which is awaited already unless this `holds` and
        could not `confirm` it. Raises as `expect`."""

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


class StreamReceivers(Receivers):
    """A thread per stream, in this process. What is done with a stream is up to those who derive from it."""

    _receiver: Receiver
    _shut_how: int
    """How streams are cut."""

    def __init__(self, on_lost: Callable[[], None]) -> None:
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
            self._receive(stream, sock)
        except (ObjectCacheError, OSError) as error:
            reason = stream_error(error)
        self.cut()  # a session that misses a stream misses part of every layer
        self._let_go(stream, sock, reason)
        with self._lock:
            self._sockets.remove(sock)
        sock.close()

    @abstractmethod
    def _receive(self, stream: int, sock: socket.socket) -> None:
        """Until the stream ends: raises ObjectCacheError, OSError."""

    @abstractmethod
    def _let_go(self, stream: int, sock: socket.socket, reason: ObjectCacheError) -> None:
        """The stream has ended: tell the receiver, once nothing writes on its behalf any more."""

    def expect(self, expected: Expected, offset: int) -> None:
        self._receiver.expect(expected)
        if self._lost:
            error = GatewayUnavailableError("the connections to the gateway are gone")
            self.fail(expected.delivery, error)
            raise error

    def shape(self, expected: Expected, geometry: DeliveryGeometry, parts: Sequence[ExpectedPart], offset: int) -> None:
        self._receiver.shape(expected, geometry, parts)

    def cancel(self, delivery: int, epoch: int) -> None:
        self._receiver.cancel(delivery, epoch)

    def cut(self) -> None:
        with self._lock:
            first, self._lost = not self._lost, True
            sockets = list(self._sockets)
        if first:
            self._on_lost()  # before anybody hears of a failure, and asks again
        for sock in sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(self._shut_how)

    def kill(self) -> None:
        self.cut()

    def close(self) -> None:
        self.cut()


class ThreadReceivers(StreamReceivers):
    """Threads that receive into the pool's memory."""

    _shut_how = socket.SHUT_RDWR

    def __init__(self, on_lost: Callable[[], None], verify: Verification = VERIFY_ALL, *, hold_s: float = 0.0) -> None:
        """`hold_s` as for Receiver."""
        self._receiver: Receiver = Receiver(verify, hold_s)
        super().__init__(on_lost)

    def _receive(self, stream: int, sock: socket.socket) -> None:
        self._receiver.run(stream, PieceReceiver(sock))

    def _let_go(self, stream: int, sock: socket.socket, reason: ObjectCacheError) -> None:
        self._receiver.lost(stream, reason)

    def fail(self, delivery: int, error: ObjectCacheError) -> None:
        self._receiver.fail(delivery, error)


class SharedReceivers(StreamReceivers):
    """Threads that only verify what a worker of this host places in the pool's memory.

    What has been expected may be written until the worker says that it is over, or is seen to have let go of every
    stream: cutting asks for that, and nothing here can enforce it.
    """

    _shut_how = socket.SHUT_WR  # its end is still to be seen

    def __init__(self, on_lost: Callable[[], None], verify: Verification) -> None:
        self._receiver: PlacedReceiver = PlacedReceiver(verify)
        super().__init__(on_lost)

    def _receive(self, stream: int, sock: socket.socket) -> None:
        self._receiver.run(stream, WordReceiver(sock))

    def _let_go(self, stream: int, sock: socket.socket, reason: ObjectCacheError) -> None:
        self._receiver.fail_all(reason)
        read_to_end(sock)
        self._receiver.lost(stream, reason)

    def fail(self, delivery: int, error: ObjectCacheError) -> None:
        self._receiver.withdraw(delivery, error)


def read_to_end(sock: socket.socket) -> None:
    """Return when the other side has closed: on a Unix socket, an error (ECONNRESET) says the same."""
    with contextlib.suppress(OSError):
        while sock.recv(1 << 16):
            pass
