"""A proxy before an HTTP service that can be told to misbehave, one request at a time."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from http.client import HTTPException, HTTPResponse
from typing import Self

from objectcache.bench.guarding import free_ports


class FaultProxy:
    """Forwards requests to `port` of this machine, as long as no fault is set; `heal` ends any fault.

    Every response is read whole before it is passed on.
    """

    def __init__(self, port: int) -> None:
        self._upstream = port
        self.port = free_ports(1)
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.requests: list[str] = []
        """First lines of all requests since the last `heal`."""
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self.heal()
        self._accept()

    # -- faults ---------------------------------------------------------------------------------------

    def heal(self) -> None:
        self._latency_s = 0.0
        self._status = 0
        self._only = ""
        self._cut_bytes: int | None = None
        self._cuts = 0
        self._short = False
        self._hang = threading.Event()
        self._hang.set()
        self.requests.clear()
        self.most_at_once = 0
        if self._listener.fileno() < 0:
            self._listener = socket.create_server(("127.0.0.1", self.port))
            self._accept()

    def down(self) -> None:
        """Connections end, and new ones are refused."""
        self._stop_listening()
        self._drop_connections()

    def slow(self, latency_s: float) -> None:
        """Every request waits."""
        self._latency_s = latency_s

    def answer(self, status: int, *, only: str = "") -> None:
        """Requests (those whose first line contains `only`) are answered with an error and go no further."""
        self._status, self._only = status, only

    def cut(self, after_bytes: int, *, times: int = 1 << 30) -> None:
        """Bodies of responses break off, the connection is reset."""
        self._cut_bytes, self._cuts = after_bytes, times

    def shorten(self) -> None:
        """Bodies of responses have half of their bytes, and say so."""
        self._short = True

    def hang(self) -> None:
        """Requests are read and never answered."""
        self._hang.clear()

    # -- connections ----------------------------------------------------------------------------------

    def close(self) -> None:
        self._hang.set()
        self._stop_listening()
        self._drop_connections()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _stop_listening(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # a close alone leaves it open while a thread accepts
        self._listener.close()

    def _drop_connections(self) -> None:
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        listener = self._listener

        def run() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

        threading.Thread(target=run, daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self._open.add(client)
        with client, contextlib.suppress(OSError, HTTPException):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with socket.create_connection(("127.0.0.1", self._upstream)) as server:
                server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while self._exchange(client, server):
                    pass
        self._open.discard(client)

    def _exchange(self, client: socket.socket, server: socket.socket) -> bool:
        """One request and its response. False: the connection has ended."""
        request = _read_request(client)
        if request is None:
            return False
        head, body = request
        line = head.split(b"\r\n", 1)[0].decode()
        with self._lock:
            self.requests.append(line)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            return self._answer(line, head + body, client, server)
        finally:
            with self._lock:
                self._now -= 1

    def _answer(self, line: str, request: bytes, client: socket.socket, server: socket.socket) -> bool:
        hang = self._hang
        if not hang.is_set():
            hang.wait(60)
            return False
        time.sleep(self._latency_s)
        if self._status and self._only in line:
            client.sendall(b"HTTP/1.1 %d Fault\r\nContent-Length: 0\r\n\r\n" % self._status)
            return True
        server.sendall(request)
        response = HTTPResponse(server, method=line.split(" ")[0])
        response.begin()
        answer = response.read()
        headers = [
            f"{name}: {value}\r\n"
            for name, value in response.getheaders()
            if name.lower() not in ("content-length", "transfer-encoding")
        ]
        length = response.getheader("Content-Length") or "0" if line.startswith("HEAD") else str(len(answer))
        if self._short and answer:
            answer = answer[: len(answer) // 2]
            length = str(len(answer))
        lines = f"HTTP/1.1 {response.status} {response.reason}\r\n{''.join(headers)}Content-Length: {length}\r\n\r\n"
        client.sendall(lines.encode("latin-1"))
        if self._cut_bytes is not None and self._cuts and len(answer) > self._cut_bytes:
            self._cuts -= 1
            client.sendall(answer[: self._cut_bytes])
            # A reset, as of a process that dies.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        client.sendall(answer)
        return True


def _read_request(client: socket.socket) -> tuple[bytes, bytes] | None:
    """Head and body; None at the end of the connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = client.recv(1 << 16)
        if not chunk:
            return None
        data += chunk
    head, separator, start = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    body = bytearray(start)
    while len(body) < length:
        chunk = client.recv(1 << 20)
        if not chunk:
            return None
        body += chunk
    return head + separator, bytes(body)
