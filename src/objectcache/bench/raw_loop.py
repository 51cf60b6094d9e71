"""What this machine can do at best: sendfile from one bare process into recv of this one, over loopback.

The same bytes of the same files, as many connections, warmed memory that is used again: but no framing, no digests, no
order to keep, nobody to tell.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType

from objectcache.bench.children import JsonChild
from objectcache.bench.machine import cpu_s
from objectcache.bench.raw_sender import REQUEST, cut
from objectcache.bench.transfer import Transfer
from objectcache.transports.connecting import connect, tune
from objectcache.transports.sockets import recv_exact


class RawLoop(AbstractContextManager["RawLoop"]):
    """`sets` are lists of ranges (fd, offset, length); `run` transfers one of them.

    Into `memory`, where that is given: room for the largest set, which the caller keeps until after this is left.
    """

    def __init__(
        self, sets: Sequence[Sequence[tuple[int, int, int]]], connections: int, memory: memoryview | None = None
    ) -> None:
        self._given = memory
        self._pieces = [cut(ranges) for ranges in sets]
        self._stack = ExitStack()
        try:
            self._open(sets, connections)
        except BaseException:
            self._stack.close()
            raise

    def _open(self, sets: Sequence[Sequence[tuple[int, int, int]]], connections: int) -> None:
        fds = sorted({fd for ranges in sets for fd, _, _ in ranges})
        self._sender = self._stack.enter_context(JsonChild(["objectcache.bench.raw_sender"], pass_fds=fds))
        port = self._sender.ask({"connections": connections, "sets": [list(ranges) for ranges in sets]})["port"]
        self._sockets = []
        for _ in range(connections):
            sock = self._stack.enter_context(connect("127.0.0.1", port))
            tune(sock)
            self._sockets.append(sock)
        if self._given is not None:
            self._memory = self._given
        else:
            self._memory = memoryview(self._stack.enter_context(mmap.mmap(-1, max(map(total_bytes, sets)))))
            self._stack.callback(self._memory.release)
        self._threads = self._stack.enter_context(ThreadPoolExecutor(connections, thread_name_prefix="raw"))

    def run(self, index: int) -> Transfer:
        """Transfer the set at `index`."""
        sender_cpu_s, receiver_cpu_s = cpu_s(self._sender.pid), time.process_time()
        start_s = time.perf_counter()
        list(self._threads.map(lambda connection: self._receive(index, connection), range(len(self._sockets))))
        seconds = time.perf_counter() - start_s
        return Transfer(
            started_s=start_s,
            seconds=seconds,
            payload_bytes=sum(piece.length for piece in self._pieces[index]),
            sender_cpu_s=cpu_s(self._sender.pid) - sender_cpu_s,
            receiver_cpu_s=time.process_time() - receiver_cpu_s,
        )

    def _receive(self, index: int, connection: int) -> None:
        sock, connections = self._sockets[connection], len(self._sockets)
        sock.sendall(REQUEST.pack(index, connection, connections))
        for piece in self._pieces[index][connection::connections]:
            recv_exact(sock, self._memory[piece.at : piece.at + piece.length])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def total_bytes(ranges: Iterable[tuple[int, int, int]]) -> int:
    return sum(length for _, _, length in ranges)
