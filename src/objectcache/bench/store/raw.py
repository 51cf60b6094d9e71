"""What this machine can store at best beside a busy core: memory to a socket, socket to a file, by bare processes.

No digests, no format, nobody to ask, and one connection: on the one core that is left, more are no faster.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np

from objectcache.bench.children import JsonChild
from objectcache.bench.store.raw_receiver import PIECE_BYTES
from objectcache.bench.store.warm import warm
from objectcache.transports.connecting import connect, tune
from objectcache.transports.sockets import recv_exact


class RawStoring(AbstractContextManager["RawStoring"]):
    """`size_bytes` from memory of this process into a file in `directory`, while a process keeps `core` busy."""

    def __init__(self, directory: Path, size_bytes: int, layer_bytes: int, core: set[int]) -> None:
        self._directory, self._size = directory, size_bytes
        self._memory = memoryview(np.random.default_rng(0).bytes(layer_bytes))
        self._stack = ExitStack()
        try:
            self._busy = self._stack.enter_context(JsonChild(["objectcache.bench.store.busy", str(min(core))]))
            self._busy.read()
            receiver = self._stack.enter_context(JsonChild(["objectcache.bench.store.raw_receiver"]))
            port = receiver.ask({"path": str(directory / "raw"), "bytes": size_bytes})["port"]
            self._sock = self._stack.enter_context(connect("127.0.0.1", port))
            tune(self._sock)
        except BaseException:
            self._stack.close()
            raise

    def run(self) -> float:
        """Bytes a second, until the receiver has written all of it."""
        warm(self._directory, self._size)
        self._busy.ask({})
        start_s = time.perf_counter()
        sent = 0
        while sent < self._size:
            at = sent % len(self._memory)
            piece = self._memory[at : at + min(PIECE_BYTES, self._size - sent)]
            self._sock.sendall(piece)
            sent += len(piece)
        recv_exact(self._sock, memoryview(bytearray(1)))
        seconds = time.perf_counter() - start_s
        self._busy.ask({})
        return self._size / seconds

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
