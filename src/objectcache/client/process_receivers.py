"""The engine's side of a receiving process: orders go there, what happened comes back."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from struct import Struct

from objectcache.buffers import BufferPool
from objectcache.client.receivers import Receivers, error_fields
from objectcache.errors import DeliveryTimeoutError, GatewayUnavailableError, ObjectCacheError, error_from_code
from objectcache.transports.receiver import VERIFY_ALL, Expected
from objectcache.transports.verification import Verification
from objectcache.workers.channel import BlockingChannel, Message

MODULE = "objectcache.client.receiver_process"
EXPECT_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 2.0
SEND_TIMEOUT_S = 2


class ProcessReceivers(Receivers):
    """A process of its own receives, into the shared memory of the pool."""

    def __init__(self, pool: BufferPool, on_lost: Callable[[], None], verify: Verification = VERIFY_ALL) -> None:
        mine, theirs = socket.socketpair()
        # A process that hangs takes nothing: no thread of the engine may wait for it for ever.
        mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, Struct("ll").pack(SEND_TIMEOUT_S, 0))
        self._socket = mine
        self._channel = BlockingChannel(mine)
        self._on_lost = on_lost
        self._expected: dict[tuple[int, int], Expected] = {}
        self._expecting: dict[tuple[int, int], threading.Event] = {}
        self._lock = threading.Lock()
        self._lost = False
        with theirs:
            fds = (theirs.fileno(), pool.fileno())
            level = (verify.level, verify.fraction)
            command = [sys.executable, "-m", MODULE, *map(str, (*fds, pool.size_bytes, *level))]
            self._process = subprocess.Popen(command, pass_fds=fds, stdin=subprocess.DEVNULL)
        threading.Thread(target=self._listen, name="receiver-process", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def attach(self, stream: int, sock: socket.socket) -> None:
        with sock:
            self._channel.send({"op": "attach", "stream": stream}, [sock.fileno()])

    def expect(self, expected: Expected, offset: int, timeout_s: float) -> None:
        expecting = threading.Event()
        with self._lock:
            lost = self._lost
            if not lost:
                self._expected[expected.delivery, expected.epoch] = expected
                self._expecting[expected.delivery, expected.epoch] = expecting
        if lost:
            expected.on_fenced()
            raise GatewayUnavailableError("the receiving process or its streams are gone")
        self._channel.send(
            {
                "op": "expect",
                "delivery": expected.delivery,
                "epoch": expected.epoch,
                "offset": offset,
                "size": len(expected.memory),
                "streams": expected.streams,
                "from_layer": expected.from_layer,
                "layers_per_unit": expected.geometry.layers_per_unit,
                "parts": [
                    (
                        part.group,
                        part.shard,
                        part.keys.data,
                        shape.layers,
                        shape.slice_bytes,
                        shape.num_chunks,
                        shape.held,
                    )
                    for part, shape in zip(expected.parts, expected.geometry.parts, strict=True)
                ],
            }
        )
        # Frames of a delivery that the process does not know yet would be thrown away.
        if not expecting.wait(min(timeout_s, EXPECT_TIMEOUT_S)):
            if timeout_s < EXPECT_TIMEOUT_S:
                raise DeliveryTimeoutError(f"the receiving process did not answer within {timeout_s:g} s")
            raise GatewayUnavailableError("the receiving process does not answer")
        if self._lost:  # whoever noticed has told `expected`
            raise GatewayUnavailableError("the receiving process or its streams ended")

    def cancel(self, delivery: int, epoch: int) -> None:
        self._channel.send({"op": "cancel", "delivery": delivery, "epoch": epoch})

    def fail(self, delivery: int, error: ObjectCacheError) -> None:
        self._channel.send({"op": "fail", "delivery": delivery, **error_fields(error)})

    def cut(self) -> None:
        self._channel.send({"op": "cut"})

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # it may be gone already
            self._socket.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _listen(self) -> None:
        while (received := self._channel.receive()) is not None:
            self._take(received[0])
        with self._lock:
            self._lost = True
            orphans = list(self._expected.values())
            self._expected.clear()
            for expecting in self._expecting.values():
                expecting.set()
        self._on_lost()  # before anybody hears of a failure, and asks again
        self._process.wait()  # with it, nothing writes the memory any more
        for expected in orphans:
            expected.on_failed(GatewayUnavailableError("the receiving process ended"))
            expected.on_fenced()
        self._socket.close()

    def _take(self, message: Message) -> None:
        event = message["event"]
        if event == "lost":
            with self._lock:
                self._lost = True
            self._on_lost()
            return
        key = (message["delivery"], message["epoch"])
        if event == "expecting":
            with self._lock:
                self._expecting.pop(key).set()
            return
        with self._lock:
            expected = self._expected.pop(key, None) if event == "fenced" else self._expected.get(key)
        if expected is None:
            return
        if event == "unit":
            expected.on_unit(message["unit"])
        elif event == "failed":
            expected.on_failed(error_from_code(message["code"], message["message"], message["status"]))
        else:
            expected.on_fenced()
