"""Messages between processes come whole, in order, each with the descriptors that were sent with it."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectcache.workers.channel import AsyncChannel, BlockingChannel

Sent = tuple[int, int, bool]
"""A message: its payload's bytes, its descriptors, and whether the other side reads before the next."""


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    mine, theirs = socket.socketpair()
    with mine, theirs:
        yield mine, theirs


@settings(max_examples=60, deadline=None)
@given(
    messages=st.lists(
        st.tuples(st.sampled_from([0, 1, 1000, 70_000, 300_000]), st.integers(0, 3), st.booleans()), max_size=8
    )
)
def test_descriptors_come_with_their_message(messages: list[Sent]) -> None:
    mine, theirs = socket.socketpair()
    with mine, theirs, open(os.devnull, "rb") as file:
        sender, receiver = BlockingChannel(mine), BlockingChannel(theirs)
        may_go_on = threading.Semaphore(0)

        def send() -> None:
            for number, (size, descriptors, waits) in enumerate(messages):
                sender.send({"number": number, "data": bytes(size)}, [file.fileno()] * descriptors)
                if waits:
                    may_go_on.acquire(timeout=10.0)
            mine.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=send)
        thread.start()
        for number, (size, descriptors, waits) in enumerate(messages):
            received = receiver.receive()
            assert received is not None
            message, fds = received
            assert (message["number"], len(message["data"]), len(fds)) == (number, size, descriptors)
            for fd in fds:
                assert os.path.samestat(os.fstat(fd), os.fstat(file.fileno()))
                os.close(fd)
            if waits:
                may_go_on.release()
        assert receiver.receive() is None
        thread.join()


@pytest.mark.parametrize("step_bytes", [1, 3, 10_000])
def test_a_message_in_pieces(ends: tuple[socket.socket, socket.socket], step_bytes: int) -> None:
    mine, theirs = ends
    whole = bytearray()
    probe, taken = socket.socketpair()
    with probe, taken:
        BlockingChannel(probe).send({"data": bytes(20_000), "tag": 1})
        BlockingChannel(probe).send({"tag": 2})
        probe.shutdown(socket.SHUT_WR)
        while piece := taken.recv(1 << 16):
            whole += piece
    receiver = BlockingChannel(theirs)

    def send() -> None:
        for at in range(0, len(whole), step_bytes):
            mine.sendall(whole[at : at + step_bytes])
        mine.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=send)
    thread.start()
    tags = [received[0]["tag"] for received in iter(receiver.receive, None)]
    thread.join()
    assert tags == [1, 2]


def test_a_message_cut_short_is_an_end(ends: tuple[socket.socket, socket.socket]) -> None:
    mine, theirs = ends
    mine.sendall(b"\xff\0\0\0abc")
    mine.shutdown(socket.SHUT_WR)
    assert BlockingChannel(theirs).receive() is None


def test_who_selects_sees_messages_that_were_read_together(ends: tuple[socket.socket, socket.socket]) -> None:
    """The socket is silent then, and the next message would be waited for."""
    sender, receiver = map(BlockingChannel, ends)
    for number in range(3):
        sender.send({"number": number})
    got: list[int] = []
    assert not receiver.at_hand
    while not got or receiver.at_hand:
        received = receiver.receive()
        assert received is not None
        got.append(received[0]["number"])
    assert got == [0, 1, 2]


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.sampled_from([0, 1000, 300_000]), max_size=12), late=st.booleans())
def test_what_does_not_fit_is_sent_when_there_is_room(sizes: list[int], late: bool) -> None:
    """In order; and nobody waits for room any more when all of it is sent."""
    mine, theirs = socket.socketpair()

    def read() -> list[int]:
        receiver = BlockingChannel(theirs)
        found = [receiver.receive() for _ in sizes]
        return [len(each[0]["data"]) for each in found if each is not None]

    async def send() -> list[int]:
        loop, channel = asyncio.get_running_loop(), AsyncChannel(mine)
        received = []
        for _ in range(2):  # and the second time as the first
            reading = None if late else loop.run_in_executor(None, read)
            for size in sizes:
                channel.send({"data": bytes(size)})
            received += await (reading or loop.run_in_executor(None, read))
            assert not loop.remove_writer(mine)
        channel.close()
        return received

    with mine, theirs:
        assert asyncio.run(send()) == 2 * sizes


def test_nothing_is_kept_for_a_worker_that_is_gone() -> None:
    mine, theirs = socket.socketpair()

    async def send() -> None:
        channel = AsyncChannel(mine)
        with open(os.devnull) as file:
            for _ in range(3):
                channel.send({}, [file.fileno()])
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(20):
                channel.send({}, [file.fileno()])
            assert len(os.listdir("/proc/self/fd")) == before
        channel.close()

    with mine:
        theirs.close()
        asyncio.run(send())
