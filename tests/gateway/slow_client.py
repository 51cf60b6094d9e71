"""A client that takes a little of a delivery and then nothing more, as a process: for tests that kill or stop it.

`python slow_client.py PORT BUCKET` reads a descriptor (hex) from standard input; its target says how it is asked for.
Prints a line once the first bytes are there, and hangs.
"""

from __future__ import annotations

import http.client
import signal
import socket
import sys
from dataclasses import replace

from objectcache.descriptor import Target, TargetKind, decode_descriptor
from objectcache.frames import hello_frame
from objectcache.messages import SessionAnswer, SessionRequest

STREAMS = 2
LITTLE_BYTES = 64 << 10


def post(connection: http.client.HTTPConnection, bucket: str, resource: str, body: bytes) -> bytes:
    connection.request("POST", f"/{bucket}?{resource}", body)
    response = connection.getresponse()
    data = response.read()
    assert response.status == 200, data
    return data


def stripe(session: SessionAnswer, stream: int) -> socket.socket:
    sock = socket.create_connection((session.data_host, session.data_port))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LITTLE_BYTES)
    sock.sendall(hello_frame(session.session, stream))
    return sock


def main() -> None:
    port, bucket = int(sys.argv[1]), sys.argv[2]
    descriptor = decode_descriptor(bytes.fromhex(sys.stdin.readline()))
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.connect()
    sockets = [connection.sock]
    if descriptor.target.kind is TargetKind.TCP:
        session = SessionAnswer.decode(post(connection, bucket, "kv-session", SessionRequest(STREAMS).encode()))
        sockets = [stripe(session, stream) for stream in range(STREAMS)]
        descriptor = replace(descriptor, target=Target(TargetKind.TCP, session.session))
        post(connection, bucket, "kv-retrieve", descriptor.encode())
    else:
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LITTLE_BYTES)
        connection.request("POST", f"/{bucket}?kv-retrieve", descriptor.encode())
    for sock in sockets:
        sock.recv(LITTLE_BYTES)
    print("reading", flush=True)
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
