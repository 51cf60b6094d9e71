"""The engine's side of receiving processes: orders go there, what happened comes back."""

from __future__ import annotations

import contextlib
import selectors
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from struct import Struct

import numpy as np

from objectcache.buffers import Buffer, BufferPool
from objectcache.client.orders import SLOTS, Order
from objectcache.client.receivers import Receivers
from objectcache.errors import (
    BufferPoolExhaustedError,
    DeliveryError,
    GatewayUnavailableError,
    ObjectCacheError,
    error_from_code,
)
from objectcache.layout import DeliveryGeometry, PartShape
from objectcache.transports.joint import ArrivalBoard
from objectcache.transports.receiver import VERIFY_ALL, Expected, ExpectedPart
from objectcache.transports.verification import Verification
from objectcache.workers.channel import BlockingChannel, Message, error_fields, pack

MODULE = "objectcache.client.receiver_process"
CLOSE_TIMEOUT_S = 2.0
SEND_TIMEOUT_S = 2
BOARDS_BYTES = 256 << 20
"""Takes memory only as it is written: 128 KB for each process and delivery of 64K tokens of 32 layers."""

Key = tuple[int, int]


@dataclass(eq=False)
class _Awaited:
    """A delivery, put together from what each process says of it. Under the lock of its owner."""

    expected: Expected
    board: Buffer
    unfenced: set[int]
    """Processes that may still write."""
    shaped: bool
    """Whether it is known here how many sections come."""
    sections: set[int] = field(default_factory=set)
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class _Foretold:
    """What processes keep in a slot until it is confirmed. Its board is theirs only then."""

    slot: int
    order: Order
    board: Buffer


class ProcessReceivers(Receivers):
    """Processes that receive into the shared memory of the pool; streams are dealt out to them in turn."""

    holds = True

    def __init__(
        self, pool: BufferPool, on_lost: Callable[[], None], verify: Verification = VERIFY_ALL, processes: int = 1
    ) -> None:
        self._on_lost = on_lost
        self._awaited: dict[Key, _Awaited] = {}
        self._foretold: dict[Key, _Foretold] = {}
        self._confirmed: set[Key] = set()
        """Without a shape yet."""
        self._slots = list(range(SLOTS))
        self._boards = BufferPool(BOARDS_BYTES)
        self._lock = threading.Lock()
        self._lost = False
        level = (verify.level, verify.fraction)
        shared = (pool.fileno(), pool.size_bytes, self._boards.fileno(), BOARDS_BYTES)
        self._sockets: list[socket.socket] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        for index in range(processes):
            mine, theirs = socket.socketpair()
            # A process that hangs takes nothing: no thread of the engine may wait for it for ever.
            mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, Struct("ll").pack(SEND_TIMEOUT_S, 0))
            with theirs:
                command = [sys.executable, "-m", MODULE]
                command += map(str, (theirs.fileno(), *shared, index, processes, *level, int(pool.prefaulted)))
                fds = (theirs.fileno(), pool.fileno(), self._boards.fileno())
                self._processes.append(subprocess.Popen(command, pass_fds=fds, stdin=subprocess.DEVNULL))
            self._sockets.append(mine)
        self._channels = [BlockingChannel(sock) for sock in self._sockets]
        threading.Thread(target=self._listen, name="receiver-processes", daemon=True).start()

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    def attach(self, stream: int, sock: socket.socket) -> None:
        with sock:
            channel = self._channels[stream % len(self._channels)]
            channel.send({"op": "attach", "stream": stream}, [sock.fileno()])

    def expect(self, expected: Expected, offset: int) -> None:
        """Waits for no answer: a process that does not know a delivery yet holds its frames for a while."""
        geometry = expected.geometry
        assert geometry is not None, "a receiving process is told once that is known"
        order = Order(geometry, expected.parts)
        try:
            with self._lock:
                board = self._new_board(ArrivalBoard.size_bytes(geometry, len(self._channels)))
                self._await(expected, board)
        except ObjectCacheError:
            expected.on_fenced()
            raise
        self._send_all({"op": "expect", **_about(expected, offset, board), **order.to_map()})

    def foretell(
        self, expected: Expected, geometry: DeliveryGeometry, parts: Sequence[ExpectedPart], offset: int
    ) -> None:
        """Nothing where a slot or a board is missing: `shape` tells all of it then, or what is missing."""
        order = Order(geometry, parts)
        with self._lock:
            usage = self._boards.usage()
            size = ArrivalBoard.most_bytes(geometry, len(self._channels))
            # It may not come, and others would miss it.
            if self._lost or not self._slots or size > (usage.total_bytes - usage.in_use_bytes) // 2:
                return
            try:
                board = self._new_board(size)
            except BufferPoolExhaustedError:  # it is free, but not in one piece
                return
            slot = self._slots.pop()
            self._foretold[expected.delivery, expected.epoch] = _Foretold(slot, order, board)
        self._send_all({"op": "foretell", "slot": slot, **_about(expected, offset, board), **order.to_map()})

    def forget(self, expected: Expected) -> None:
        with self._lock:
            self._drop(expected.delivery, expected.epoch)

    def confirm(
        self, expected: Expected, parts: Sequence[ExpectedPart], shapes: Sequence[PartShape], layers_per_unit: int
    ) -> bool:
        key = (expected.delivery, expected.epoch)
        with self._lock:
            told = self._foretold.get(key)
            news = None if told is None else told.order.difference(parts, shapes, layers_per_unit)
            if told is None or news is None or self._lost:
                self._drop(*key)
                return False
            del self._foretold[key]
            self._await(expected, told.board, shaped=False)
            self._confirmed.add(key)
        self._send_all({"op": "confirm", "slot": told.slot, "delivery": key[0], "epoch": key[1], **news})
        with self._lock:
            self._slots.append(told.slot)  # not before: another's order could overtake the confirmation
        return True

    def shape(self, expected: Expected, geometry: DeliveryGeometry, parts: Sequence[ExpectedPart], offset: int) -> None:
        expected.shape(geometry, parts)
        key = (expected.delivery, expected.epoch)
        with self._lock:
            confirmed, awaited = key in self._confirmed, self._awaited.get(key)
            self._confirmed.discard(key)
            self._drop(*key)
            if awaited is not None:
                awaited.shaped = True
        if not confirmed:
            self.expect(expected, offset)
        elif awaited is not None:
            self._settle(key, awaited)

    def _new_board(self, size_bytes: int) -> Buffer:
        """Holds the lock. Raises GatewayUnavailableError, BufferPoolExhaustedError."""
        if self._lost:
            raise GatewayUnavailableError("a receiving process or its streams are gone")
        try:
            board = self._boards.allocate(size_bytes)
        except BufferPoolExhaustedError as error:
            raise BufferPoolExhaustedError(
                f"receiving processes have no room to keep track of so many deliveries at once ({error}): "
                "close retrievals sooner, or have fewer receiver_processes"
            ) from error
        np.frombuffer(board.view, np.uint8).fill(0)
        return board

    def _await(self, expected: Expected, board: Buffer, *, shaped: bool = True) -> None:
        """Holds the lock."""
        awaited = _Awaited(expected, board, set(range(len(self._channels))), shaped)
        self._awaited[expected.delivery, expected.epoch] = awaited

    def _drop(self, delivery: int, epoch: int) -> None:
        """Nothing is told: what is in a slot is not looked at before it is confirmed. Holds the lock."""
        told = self._foretold.pop((delivery, epoch), None)
        if told is not None:
            self._boards.release(told.board)
            self._slots.append(told.slot)

    def cancel(self, delivery: int, epoch: int) -> None:
        with self._lock:
            self._drop(delivery, epoch)
            awaited = self._awaited.get((delivery, epoch))
            self._confirmed.discard((delivery, epoch))
            if awaited is not None:
                awaited.stopped = True
        if awaited is not None:
            self._settle((delivery, epoch), awaited)
        self._send_all({"op": "cancel", "delivery": delivery, "epoch": epoch})

    def fail(self, delivery: int, error: ObjectCacheError) -> None:
        self._send_all({"op": "fail", "delivery": delivery, **error_fields(error)})

    def cut(self) -> None:
        self._send_all({"op": "cut"})

    def kill(self) -> None:
        for process in self._processes:
            process.kill()

    def close(self) -> None:
        self._shut_down()
        for process in self._processes:
            try:
                process.wait(CLOSE_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _send_all(self, message: Message) -> None:
        data = pack(message)
        for channel in self._channels:
            channel.send_packed(data)

    def _shut_down(self) -> None:
        for sock in self._sockets:
            with contextlib.suppress(OSError):  # it may be gone already
                sock.shutdown(socket.SHUT_RDWR)

    # -- what the processes say: one thread ---------------------------------------------------------------

    def _listen(self) -> None:
        with selectors.DefaultSelector() as selector:
            for index, sock in enumerate(self._sockets):
                selector.register(sock, selectors.EVENT_READ, index)
            ended = False
            while not ended:
                for ready, _ in selector.select():
                    channel, more = self._channels[ready.data], True
                    while more:
                        received = channel.receive()
                        ended = ended or received is None
                        if received is not None:
                            self._take(ready.data, received[0])
                        more = channel.at_hand
        self._end()

    def _end(self) -> None:
        """One of them is gone, and with it some of the streams: none is of use any more."""
        with self._lock:
            self._lost = True
            orphans = list(self._awaited.values())
            self._awaited.clear()
            self._foretold.clear()
        self._on_lost()  # before anybody hears of a failure, and asks again
        self._shut_down()
        for process in self._processes:
            process.wait()  # with it, nothing writes the memory any more
        for awaited in orphans:
            if not awaited.stopped:
                awaited.expected.on_failed(GatewayUnavailableError("a receiving process ended"))
            awaited.expected.on_fenced()
        for sock in self._sockets:
            sock.close()
        self._boards.close()

    def _take(self, index: int, message: Message) -> None:
        event = message["event"]
        if event == "lost":
            with self._lock:
                self._lost = True
            self._on_lost()
            return
        key = (message["delivery"], message["epoch"])
        awaited = self._awaited.get(key)
        if awaited is None:
            return
        if event == "section":
            if not awaited.stopped and message["section"] not in awaited.sections:
                awaited.sections.add(message["section"])
                awaited.expected.on_section(message["section"])
        elif event == "failed":
            self._failed(awaited, error_from_code(message["code"], message["message"], message["status"]))
        else:
            awaited.unfenced.discard(index)
            self._settle(key, awaited)

    def _failed(self, awaited: _Awaited, error: ObjectCacheError) -> None:
        """The others need not go on."""
        with self._lock:
            first, awaited.stopped = not awaited.stopped, True
        if first:
            self.fail(awaited.expected.delivery, error)
            awaited.expected.on_failed(error)

    def _settle(self, key: Key, awaited: _Awaited) -> None:
        """If nothing more comes, and it is known what should have come, it is over."""
        with self._lock:
            over = not awaited.unfenced and (awaited.shaped or awaited.stopped)
            if not over or self._awaited.pop(key, None) is None:
                return
            missing = awaited.expected.reception.missing_sections - len(awaited.sections)
        if missing > 0 and not awaited.stopped:
            awaited.expected.on_failed(DeliveryError("the delivery ended before all of its layers had arrived"))
        awaited.expected.on_fenced()
        self._boards.release(awaited.board)


def _about(expected: Expected, offset: int, board: Buffer) -> Message:
    return {
        "delivery": expected.delivery,
        "epoch": expected.epoch,
        "offset": offset,
        "board": board.offset,
        "streams": expected.streams,
        "from_layer": expected.from_layer,
    }
