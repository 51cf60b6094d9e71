"""The bare sender of the raw loop: a process whose threads do nothing but sendfile.

`python -m objectcache.bench.raw_sender` reads one JSON line {"connections", "sets": [[[fd, offset, length], …], …]},
prints its port, and ends when standard input does. A request on a connection is (set, index, connections): every
connections-th piece of the set from `index` on.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Iterable
from struct import Struct
from typing import NamedTuple

from objectcache.errors import GatewayUnavailableError
from objectcache.transports.connecting import listen, tune
from objectcache.transports.sockets import recv_exact

PIECE_BYTES = 1 << 20
REQUEST = Struct("<III")


class Piece(NamedTuple):
    """`at` is its offset in what is sent all in all."""

    fd: int
    offset: int
    length: int
    at: int


def cut(ranges: Iterable[tuple[int, int, int]]) -> list[Piece]:
    """Ranges (fd, offset, length) in pieces of at most 1 MiB."""
    pieces = []
    at = 0
    for fd, offset, length in ranges:
        for begin in range(0, length, PIECE_BYTES):
            size = min(PIECE_BYTES, length - begin)
            pieces.append(Piece(fd, offset + begin, size, at))
            at += size
    return pieces


def _serve(sock: socket.socket, sets: list[list[Piece]]) -> None:
    request = memoryview(bytearray(REQUEST.size))
    target = sock.fileno()
    while True:
        try:
            recv_exact(sock, request)
        except GatewayUnavailableError:
            return
        chosen, index, connections = REQUEST.unpack(request)
        for piece in sets[chosen][index::connections]:
            sent = 0
            while sent < piece.length:
                sent += os.sendfile(target, piece.fd, piece.offset + sent, piece.length - sent)


def main() -> None:
    job = json.loads(sys.stdin.readline())
    sets = [cut(ranges) for ranges in job["sets"]]
    with listen("127.0.0.1", 0, job["connections"]) as listener:
        print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
        for _ in range(job["connections"]):
            sock, _ = listener.accept()
            tune(sock)
            threading.Thread(target=_serve, args=(sock, sets), daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
