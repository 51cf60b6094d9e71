"""A proxy before an HTTP service that makes it seem farther away: every request waits, bytes flow at full speed.

`python -m objectcache.bench.stores.delaying` reads one JSON line {"host", "port", "delay_s"} and prints {"port"}; to
every line after that it prints {"requests"}, how many there were, and a line {"stalled"} makes those that follow wait
until another one ends that. It ends when standard input does.

HTTP/1.1 without pipelining is a conversation in turns, so that nothing needs to be parsed: what a client says after an
answer is the next request. Answers pass through a pipe in the kernel.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
import sys
import threading
import time
from contextlib import AbstractContextManager, suppress
from types import TracebackType

from objectcache.bench.children import JsonChild

_BUFFER_BYTES = 1 << 20


class DelayingProxy(AbstractContextManager["DelayingProxy"]):
    """Before `host`:`port`, in a process of its own. Raises BenchmarkError."""

    def __init__(self, host: str, port: int, delay_s: float) -> None:
        self._child = JsonChild(["objectcache.bench.stores.delaying"])
        try:
            self.port: int = self._child.ask({"host": host, "port": port, "delay_s": delay_s})["port"]
        except BaseException:
            self._child.close()
            raise

    def count_requests(self) -> int:
        """How many there were so far."""
        requests: int = self._child.ask({})["requests"]
        return requests

    def stall(self, stalled: bool) -> None:
        """Requests from now on are not passed on, or all are again."""
        self._child.ask({"stalled": stalled})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.close()


class _Delay:
    def __init__(self, host: str, port: int, delay_s: float) -> None:
        self._upstream = (host, port)
        self._delay_s = delay_s
        self.requests = 0
        self.passing = threading.Event()
        self.passing.set()
        self._lock = threading.Lock()

    def wait(self) -> None:
        """For one request."""
        with self._lock:
            self.requests += 1
        time.sleep(self._delay_s)
        self.passing.wait()

    def serve(self, client: socket.socket) -> None:
        """A connection, to its end."""
        with client, suppress(OSError), socket.create_connection(self._upstream) as server:
            for sock in (client, server):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            begin, end = os.pipe()
            try:
                fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, _BUFFER_BYTES)
                self._converse(client, server, begin, end)
            finally:
                os.close(begin)
                os.close(end)

    def _converse(self, client: socket.socket, server: socket.socket, begin: int, end: int) -> None:
        poll = select.poll()
        for sock in (client, server):
            poll.register(sock, select.POLLIN)
        asking = False
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == client.fileno():
                    data = client.recv(_BUFFER_BYTES)
                    if not data:
                        return
                    if not asking:
                        asking = True
                        self.wait()
                    server.sendall(data)
                else:
                    asking = False
                    left = os.splice(server.fileno(), end, _BUFFER_BYTES)
                    if not left:
                        return
                    while left:
                        left -= os.splice(begin, client.fileno(), left)


def main() -> None:
    job = json.loads(sys.stdin.readline())
    delay = _Delay(job["host"], job["port"], job["delay_s"])
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)

    def accept() -> None:
        while True:
            client, _ = listener.accept()
            threading.Thread(target=delay.serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    while line := sys.stdin.readline():
        stalled = json.loads(line).get("stalled")
        if stalled is not None:
            (delay.passing.clear if stalled else delay.passing.set)()
        print(json.dumps({"requests": delay.requests}), flush=True)


if __name__ == "__main__":
    main()
