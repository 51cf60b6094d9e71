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

from objectcache.buffers import Buffer, BufferPool
from objectcache.client.receivers import Receivers
from objectcache.errors import (
    BufferPoolExhaustedError,
    DeliveryError,
    GatewayUnavailableError,
    ObjectCacheError,
    error_from_code,
)
from objectcache.layout import DeliveryGeometry
from objectcache.transports.joint import ArrivalBoard
from objectcache.transports.receiver import VERIFY_ALL, Expected, ExpectedPart
from objectcache.transports.verification import Verification
from objectcache.workers.channel import BlockingChannel, Message, error_fields

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
    sections: set[int] = field(default_factory=set)
    stopped: bool = False


class ProcessReceivers(Receivers):
    """Processes that receive into the shared memory of the pool; streams are dealt out to them in turn."""

    holds = True

    def __init__(
        self, pool: BufferPool, on_lost: Callable[[], None], verify: Verification = VERIFY_ALL, processes: int = 1
    ) -> None:
        self._on_lost = on_lost
        self._awaited: dict[Key, _Awaited] = {}
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
        board: Buffer | None = None
        with self._lock:
            if not self._lost:
                try:
                    board = self._boards.allocate(ArrivalBoard.size_bytes(geometry, len(self._channels)))
                except BufferPoolExhaustedError as error:
                    problem: ObjectCacheError = BufferPoolExhaustedError(
                        f"receiving processes have no room to keep track of so many deliveries at once ({error}): "
                        "close retrievals sooner, or have fewer receiver_processes"
                    )
                else:
                    board.view[:] = bytes(len(board.view))
                    awaited = _Awaited(expected, board, set(range(len(self._channels))))
                    self._awaited[expected.delivery, expected.epoch] = awaited
            else:
                problem = GatewayUnavailableError("a receiving process or its streams are gone")
        if board is None:
            expected.on_fenced()
            raise problem
        self._send_all(_order(expected, geometry, offset, board.offset))

    def shape(self, expected: Expected, geometry: DeliveryGeometry, parts: Sequence[ExpectedPart], offset: int) -> None:
        expected.shape(geometry, parts)
        self.expect(expected, offset)

    def cancel(self, delivery: int, epoch: int) -> None:
        with self._lock:
            awaited = self._awaited.get((delivery, epoch))
            if awaited is not None:
                awaited.stopped = True
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
        for channel in self._channels:
            channel.send(message)

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
            if not awaited.unfenced:
                self._fenced(key, awaited)

    def _failed(self, awaited: _Awaited, error: ObjectCacheError) -> None:
        """The others need not go on."""
        with self._lock:
            first, awaited.stopped = not awaited.stopped, True
        if first:
            self.fail(awaited.expected.delivery, error)
            awaited.expected.on_failed(error)

    def _fenced(self, key: Key, awaited: _Awaited) -> None:
        with self._lock:
            self._awaited.pop(key, None)
            missing = awaited.expected.reception.missing_sections - len(awaited.sections)
        if missing > 0 and not awaited.stopped:
            awaited.expected.on_failed(DeliveryError("the delivery ended before all of its layers had arrived"))
        awaited.expected.on_fenced()
        self._boards.release(awaited.board)


def _order(expected: Expected, geometry: DeliveryGeometry, offset: int, board: int) -> Message:
    return {
        "op": "expect",
        "delivery": expected.delivery,
        "epoch": expected.epoch,
        "offset": offset,
        "size": len(expected.memory),
        "board": board,
        "streams": expected.streams,
        "from_layer": expected.from_layer,
        "layers_per_unit": geometry.layers_per_unit,
        "parts": [
            (part.group, part.shard, part.keys.data, shape.layers, shape.slice_bytes, shape.num_chunks, shape.held)
            for part, shape in zip(expected.parts, geometry.parts, strict=True)
        ],
    }
