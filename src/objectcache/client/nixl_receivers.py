"""Receiving what a gateway's worker writes into memory that this process has registered with NIXL.

Notifications have no descriptor to wait for: one thread looks for them, often while a delivery is awaited and seldom
otherwise, and hands them to a thread for each stream, which verify. It is this thread too in which UCX makes progress:
over TCP, it copies what has come.
"""

from __future__ import annotations

import logging
import queue
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from objectcache.buffers import BufferPool
from objectcache.client.receivers import Receivers, read_to_end
from objectcache.errors import GatewayUnavailableError, ObjectCacheError
from objectcache.layout import DeliveryGeometry
from objectcache.messages import NixlRequest
from objectcache.transports.nixl import Agent, InOrder, Notification, Region, decode_notification, watch
from objectcache.transports.receiver import Expected, ExpectedPart, stream_error
from objectcache.transports.shared_memory import PlacedReceiver
from objectcache.transports.verification import Verification

POLL_S = 0.0001
"""Between looks while a delivery is awaited: what a layer may wait for on top of the network."""
BUSY_S = 0.00005
"""A look that takes longer has moved something: the next one follows at once."""
FENCE_POLL_S = 0.001
"""While only the end of some is awaited, which nobody wants any more."""
IDLE_POLL_S = 0.02
"""And while nothing is: for peers that connect, or leave."""

log = logging.getLogger(__name__)

_Queue = queue.SimpleQueue[Notification | None]


class NixlReceivers(Receivers):
    """The agent of one session, and the threads that take its notifications.

    What has been expected may be written until the worker says that it is over, or is seen to have let go of the line:
    cutting asks for that. Where the line ends the agent ends, before anything is said to be fenced: what may still be
    on its way to it lands nowhere.
    """

    def __init__(
        self, on_lost: Callable[[], None], verify: Verification, name: str, pool: BufferPool, streams: int
    ) -> None:
        """`name` is what the gateway has given. Raises ConfigError where NIXL is missing, DeliveryError."""
        self._on_lost = on_lost
        self._receiver = PlacedReceiver(verify)
        # Stays mapped as long as somebody may write it, whatever becomes of the pool.
        self._memory: memoryview | None = pool.memory
        self._region = Region(pool.address, pool.size_bytes)
        self._agent = Agent(name)
        self._agent.register(self._region)
        self._worker: str | None = None
        self._awaited: set[tuple[int, int]] = set()
        """Deliveries, by number and epoch, that are not fenced yet."""
        self._wanted: set[tuple[int, int]] = set()
        """Those of them that somebody waits for."""
        self._changed = threading.Condition()
        self._line: socket.socket | None = None
        self._lost = self._ending = False
        self._order = InOrder()
        self._queues: list[_Queue] = [queue.SimpleQueue() for _ in range(streams)]
        self._threads = [
            threading.Thread(target=self._verify, args=(stream,), name=f"receive-{stream}", daemon=True)
            for stream in range(streams)
        ]
        self._poller = threading.Thread(target=self._poll, name="nixl-notifications", daemon=True)
        for thread in (self._poller, *self._threads):
            thread.start()

    def registration(self, session: bytes) -> bytes:
        """The body of the request that tells the gateway of it. Raises DeliveryError."""
        region = self._region
        metadata = self._agent.metadata()
        return NixlRequest(session, metadata, region.address, region.size_bytes, region.memory, region.device).encode()

    def accept(self, worker: str) -> None:
        """From now on, notifications of the agent `worker` count."""
        self._worker = worker

    def attach(self, stream: int, sock: socket.socket) -> None:
        watch(sock)
        self._line = sock
        threading.Thread(target=self._hold, args=(sock,), name="nixl-line", daemon=True).start()

    def expect(self, expected: Expected, offset: int) -> None:
        key, told_failed, told_fenced = (expected.delivery, expected.epoch), expected.on_failed, expected.on_fenced

        def failed(error: ObjectCacheError) -> None:
            self._wanted.discard(key)
            told_failed(error)

        def fenced() -> None:
            self._wanted.discard(key)
            self._awaited.discard(key)
            told_fenced()

        expected.on_failed, expected.on_fenced = failed, fenced
        with self._changed:
            self._awaited.add(key)
            self._wanted.add(key)
            self._changed.notify_all()
        self._receiver.expect(expected)
        if self._lost:
            error = GatewayUnavailableError("the line to the gateway's worker is gone")
            self._receiver.withdraw(expected.delivery, error)
            raise error

    def shape(self, expected: Expected, geometry: DeliveryGeometry, parts: Sequence[ExpectedPart], offset: int) -> None:
        self._receiver.shape(expected, geometry, parts)

    def cancel(self, delivery: int, epoch: int) -> None:
        self._wanted.discard((delivery, epoch))
        self._receiver.cancel(delivery, epoch)

    def fail(self, delivery: int, error: ObjectCacheError) -> None:
        self._receiver.withdraw(delivery, error)

    def cut(self) -> None:
        with self._changed:
            first, self._lost = not self._lost, True
        if first:
            self._on_lost()  # before anybody hears of a failure, and asks again
        if self._line is None:
            reason = GatewayUnavailableError("there is no line to a worker")
            threading.Thread(target=self._end, args=(reason,), name="nixl-end", daemon=True).start()
            return
        with suppress(OSError):  # it may be gone already
            self._line.shutdown(socket.SHUT_WR)  # its end is still to be seen

    def kill(self) -> None:
        self.cut()

    def close(self) -> None:
        self.cut()

    # -- threads ----------------------------------------------------------------------------------

    def _hold(self, sock: socket.socket) -> None:
        """Until the worker has let go."""
        read_to_end(sock)
        self.cut()
        self._end(GatewayUnavailableError("the gateway's worker is gone, or has ended the session"))
        sock.close()

    def _end(self, reason: ObjectCacheError) -> None:
        """Nothing is in flight any more on the worker's side."""
        with self._changed:
            if self._ending:
                return
            self._ending = True
            self._changed.notify_all()
        self._poller.join()  # it has looked once more
        for one in self._queues:
            one.put(None)
        for thread in self._threads:
            thread.join()
        self._receiver.fail_all(reason)
        self._agent.close()
        for stream in range(len(self._queues)):
            self._receiver.lost(stream, reason)
        self._memory = None

    def _poll(self) -> None:
        """To the end, also when what is said makes no sense: a WRITE that is in flight needs the progress."""
        while True:
            with self._changed:
                ending = self._ending
                if not ending and not self._awaited:
                    self._changed.wait(IDLE_POLL_S)
            begun_s = time.perf_counter()
            try:
                self._look()
            except ObjectCacheError as error:
                self._out_of_step(error)
            if ending:
                return
            if self._awaited and time.perf_counter() - begun_s < BUSY_S:
                time.sleep(POLL_S if self._wanted else FENCE_POLL_S)

    def _look(self) -> None:
        """Raises DeliveryError."""
        for sender, found in self._agent.notifications().items():
            for data in found if sender == self._worker else ():
                for due in self._order.take(decode_notification(data, len(self._queues))):
                    self._queues[due.stream].put(due)

    def _verify(self, stream: int) -> None:
        while (found := self._queues[stream].get()) is not None:
            try:
                self._receiver.take(stream, found.frame, found.payload)
            except ObjectCacheError as error:
                self._out_of_step(error)

    def _out_of_step(self, error: ObjectCacheError) -> None:
        """A worker that says what it cannot say: it is not listened to any more, and asked to let go."""
        if self._worker is not None:
            log.warning("a session is given up: %s", error)
        self._worker = None
        self._receiver.fail_all(stream_error(error))
        self.cut()
