"""Small words out of a socket, by as few calls as there can be."""

from __future__ import annotations

import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.errors import GatewayUnavailableError
from objectcache.transports.sockets import WORDS_BYTES, WordReceiver


class Counting(socket.socket):
    """A socket that counts how often it is read."""

    reads = 0

    def recv_into(self, *args: object, **kwargs: object) -> int:
        self.reads += 1
        return super().recv_into(*args, **kwargs)  # type: ignore[arg-type]  # whatever it is called with


def counting_pair() -> tuple[socket.socket, Counting]:
    mine, theirs = socket.socketpair()
    return mine, Counting(fileno=theirs.detach())


@given(st.lists(st.integers(0, 3 * WORDS_BYTES), min_size=1, max_size=20), st.integers(1, 3 * WORDS_BYTES))
def test_words_come_whole_and_in_order_however_they_are_sent(sizes: list[int], sent_bytes: int) -> None:
    data = bytes(index % 251 for index in range(sum(sizes)))
    mine, theirs = socket.socketpair()
    with mine, theirs:

        def send() -> None:
            for at in range(0, len(data), sent_bytes):
                mine.sendall(data[at : at + sent_bytes])

        sending = threading.Thread(target=send)
        sending.start()
        receive, at = WordReceiver(theirs), 0
        for size in sizes:
            out = memoryview(bytearray(size))
            receive(out)
            assert out == data[at : at + size]
            at += size
        sending.join()


def test_what_is_there_already_is_read_at_once() -> None:
    mine, theirs = counting_pair()
    with mine, theirs:
        mine.sendall(bytes(range(200)))
        receive = WordReceiver(theirs)
        for at in range(0, 200, 50):
            out = memoryview(bytearray(50))
            receive(out)
            assert out == bytes(range(at, at + 50))
        assert theirs.reads == 1


def test_an_end_within_a_word() -> None:
    mine, theirs = socket.socketpair()
    with theirs:
        with mine:
            mine.sendall(b"half")
        with pytest.raises(GatewayUnavailableError):
            WordReceiver(theirs)(memoryview(bytearray(8)))
