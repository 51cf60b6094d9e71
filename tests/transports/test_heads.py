"""Heads of frames: sent without giving up the interpreter lock where that does not wait, and whole in any case."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from objectcache.transports.sockets import recv_exact, send_head

HEAD = bytes(range(64)) * 3  # zeros are no end


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        sending = socket.create_connection(server.getsockname())
        receiving, _ = server.accept()
    with sending, receiving:
        yield sending, receiving


def test_it_goes_ahead_of_what_follows(pair: tuple[socket.socket, socket.socket]) -> None:
    sending, receiving = pair
    send_head(sending, HEAD)
    receiving.settimeout(0.05)
    with pytest.raises(TimeoutError):  # the kernel holds it back
        receiving.recv(1)
    sending.sendall(b"data")
    receiving.settimeout(None)
    received = bytearray(len(HEAD) + 4)
    recv_exact(receiving, memoryview(received))
    assert received == HEAD + b"data"


@pytest.mark.parametrize("timeout_s", [None, 5.0], ids=["blocking", "non-blocking"])
def test_where_there_is_no_room_it_waits(pair: tuple[socket.socket, socket.socket], timeout_s: float | None) -> None:
    sending, receiving = pair
    filled = 0
    with suppress(BlockingIOError):
        while True:
            filled += sending.send(bytes(1 << 16), socket.MSG_DONTWAIT)
    sending.settimeout(timeout_s)
    received = bytearray(filled + len(HEAD) + 1)
    begun = threading.Event()

    def send() -> None:
        begun.set()
        send_head(sending, HEAD)
        sending.sendall(b".")

    thread = threading.Thread(target=send)
    thread.start()
    begun.wait()
    thread.join(0.05)
    assert thread.is_alive()
    recv_exact(receiving, memoryview(received))
    thread.join()
    assert bytes(received[filled:]) == HEAD + b"."


def test_a_peer_that_is_gone_is_an_error(pair: tuple[socket.socket, socket.socket]) -> None:
    sending, receiving = pair
    receiving.close()

    def send() -> None:
        for _ in range(100):
            send_head(sending, HEAD)
            sending.sendall(b".")

    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        send()


def test_a_socket_that_is_closed_is_an_error(pair: tuple[socket.socket, socket.socket]) -> None:
    sending, _ = pair
    sending.close()
    with pytest.raises(OSError, match=r"[Bb]ad file descriptor"):
        send_head(sending, HEAD)
