"""A receiving process on shared memory: immune to a busy interpreter in the engine's own process.

`python -m objectcache.client.receiver_process FD MEMORY_FD SIZE` receives for the process at the other end of the Unix
socket FD into the shared file MEMORY_FD, and ends with it.
"""

from __future__ import annotations

import mmap
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable

from objectcache.buffers import BufferPool
from objectcache.client.receivers import Receivers, ThreadReceivers
from objectcache.errors import DeliveryError, GatewayUnavailableError, ObjectCacheError, error_from_code
from objectcache.keys import KeyChain
from objectcache.layout import DeliveryGeometry, PartShape
from objectcache.transports.receiver import Expected, ExpectedPart
from objectcache.workers.channel import BlockingChannel, Message


class ProcessReceivers(Receivers):
    """The engine's side: orders go to the process, what happened comes back."""

    def __init__(self, pool: BufferPool, on_lost: Callable[[], None], *, verify: bool = True) -> None:
        mine, theirs = socket.socketpair()
        self._socket = mine
        self._channel = BlockingChannel(mine)
        self._on_lost = on_lost
        self._expected: dict[tuple[int, int], Expected] = {}
        self._lock = threading.Lock()
        self._gone = False
        with theirs:
            fds = (theirs.fileno(), pool.fileno())
            command = [sys.executable, "-m", __name__, str(fds[0]), str(fds[1]), str(pool.size_bytes), str(int(verify))]
            self._process = subprocess.Popen(command, pass_fds=fds, stdin=subprocess.DEVNULL)
        threading.Thread(target=self._listen, name="receiver-process", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def attach(self, stream: int, sock: socket.socket) -> None:
        with sock:
            self._channel.send({"op": "attach", "stream": stream}, [sock.fileno()])

    def expect(self, expected: Expected, offset: int) -> None:
        with self._lock:
            gone = self._gone
            if not gone:
                self._expected[expected.delivery, expected.epoch] = expected
        if gone:
            expected.on_failed(GatewayUnavailableError("the receiving process is gone"))
            expected.on_fenced()
            return
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
                    (part.group, part.shard, part.keys.data, shape.layers, shape.slice_bytes, shape.num_chunks)
                    for part, shape in zip(expected.parts, expected.geometry.parts, strict=True)
                ],
            }
        )

    def cancel(self, delivery: int, epoch: int) -> None:
        self._channel.send({"op": "cancel", "delivery": delivery, "epoch": epoch})

    def fail(self, delivery: int, error: ObjectCacheError) -> None:
        self._channel.send({"op": "fail", "delivery": delivery, **_error_fields(error)})

    def cut(self) -> None:
        self._channel.send({"op": "cut"})

    def close(self) -> None:
        with self._lock:
            if self._gone:
                return
        self._socket.shutdown(socket.SHUT_RDWR)
        self._process.wait()

    def _listen(self) -> None:
        while (received := self._channel.receive()) is not None:
            self._take(received[0])
        with self._lock:
            self._gone = True
            orphans = list(self._expected.values())
            self._expected.clear()
        self._process.wait()  # with it, nothing writes the memory any more
        for expected in orphans:
            expected.on_failed(GatewayUnavailableError("the receiving process ended"))
            expected.on_fenced()
        self._socket.close()
        self._on_lost()

    def _take(self, message: Message) -> None:
        event = message["event"]
        if event == "lost":
            self._on_lost()
            return
        key = (message["delivery"], message["epoch"])
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


class _Process:
    """The process itself."""

    def __init__(self, channel: BlockingChannel, memory: memoryview, *, verify: bool) -> None:
        self._channel = channel
        self._memory = memory
        self._receivers = ThreadReceivers(lambda: channel.send({"event": "lost"}), verify=verify)

    def serve(self) -> None:
        while (received := self._channel.receive()) is not None:
            message, fds = received
            match message["op"]:
                case "attach":
                    sock = socket.socket(fileno=fds[0])
                    sock.setblocking(True)
                    self._receivers.attach(message["stream"], sock)
                case "expect":
                    self._expect(message)
                case "cancel":
                    self._receivers.cancel(message["delivery"], message["epoch"])
                case "fail":
                    error = error_from_code(message["code"], message["message"], message["status"])
                    self._receivers.fail(message["delivery"], error)
                case "cut":
                    self._receivers.cut()
                case other:
                    raise DeliveryError(f"unknown order {other!r}")

    def _expect(self, message: Message) -> None:
        shapes, parts = [], []
        for group, shard, keys, layers, slice_bytes, num_chunks in message["parts"]:
            shapes.append(PartShape(tuple(layers), tuple(slice_bytes), num_chunks))
            parts.append(ExpectedPart(group, shard, KeyChain(keys)))
        about = {"delivery": message["delivery"], "epoch": message["epoch"]}
        offset = message["offset"]
        expected = Expected(
            delivery=message["delivery"],
            epoch=message["epoch"],
            geometry=DeliveryGeometry(tuple(shapes), message["layers_per_unit"]),
            parts=parts,
            memory=self._memory[offset : offset + message["size"]],
            streams=message["streams"],
            on_unit=lambda unit: self._channel.send({"event": "unit", "unit": unit, **about}),
            on_failed=lambda error: self._channel.send({"event": "failed", **_error_fields(error), **about}),
            on_fenced=lambda: self._channel.send({"event": "fenced", **about}),
            from_layer=message["from_layer"],
        )
        self._receivers.expect(expected, offset)


def _error_fields(error: ObjectCacheError) -> Message:
    return {"code": error.code, "message": str(error), "status": error.status}


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the engine; this process ends with it
    fd, memory_fd, size_bytes, verify = (int(argument) for argument in sys.argv[1:5])
    memory = memoryview(mmap.mmap(memory_fd, size_bytes))
    with socket.socket(fileno=fd) as sock:
        _Process(BlockingChannel(sock), memory, verify=bool(verify)).serve()


if __name__ == "__main__":
    main()
