"""The bare receiver of the raw loop: from a socket into a file, nothing else.

`python -m objectcache.bench.store.raw_receiver` reads one JSON line {"path", "bytes"}, prints its port, and takes one
connection. Whatever arrives, `bytes` at a time, is a new file, which is gone again once its last byte was acknowledged.
"""

from __future__ import annotations

import json
import os
import socket
import sys

from objectcache.errors import GatewayUnavailableError
from objectcache.transports.connecting import listen, tune
from objectcache.transports.sockets import recv_exact

PIECE_BYTES = 1 << 20


def _store(sock: socket.socket, path: str, size: int, piece: memoryview) -> None:
    left = size
    target = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    try:
        while left:
            part = piece[: min(left, len(piece))]
            recv_exact(sock, part)
            written = 0
            while written < len(part):
                written += os.write(target, part[written:])
            left -= len(part)
        sock.sendall(b"!")
    finally:
        os.close(target)
        os.unlink(path)


def main() -> None:
    job = json.loads(sys.stdin.readline())
    piece = memoryview(bytearray(PIECE_BYTES))
    with listen("127.0.0.1", 0, 1) as listener:
        print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
        sock, _ = listener.accept()
    tune(sock)
    while True:
        try:
            _store(sock, job["path"], job["bytes"], piece)
        except GatewayUnavailableError:
            return


if __name__ == "__main__":
    main()
