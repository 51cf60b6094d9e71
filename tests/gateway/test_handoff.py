"""Responses that somebody else writes, on connections in every state."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp.base_protocol import BaseProtocol

from objectcache.errors import InvalidArgumentError
from objectcache.gateway import handoff
from objectcache.gateway.handoff import response_head, response_socket

EARLIER, RESPONSE = b"earlier " * 100_000, b"response" * 100_000  # more than a socket holds
PATIENCE_S = 10.0


async def connected() -> tuple[Any, socket.socket]:
    """A request as far as it matters here, and the client's end."""
    loop = asyncio.get_running_loop()
    theirs, mine = socket.socketpair()
    mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 << 10)
    theirs.settimeout(PATIENCE_S)
    transport, protocol = await loop.connect_accepted_socket(lambda: BaseProtocol(loop), mine)
    return SimpleNamespace(transport=transport, protocol=protocol, keep_alive=True), theirs


def write(descriptor: int, data: bytes) -> None:
    """As a worker does: all of it, through a duplicate that it closes."""
    with socket.fromfd(descriptor, socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(PATIENCE_S)
        sock.sendall(data)


def read(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := sock.recv(1 << 16)):
        data += more
    return data


@pytest.mark.parametrize("earlier", [b"", EARLIER], ids=["idle", "busy"])
def test_a_response_comes_behind_all_that_was_written_before(earlier: bytes) -> None:
    async def run() -> bytes:
        request, client = await connected()
        request.transport.write(earlier)
        assert (request.transport.get_write_buffer_size() > 0) == bool(earlier)
        with client:
            reading = asyncio.create_task(asyncio.to_thread(read, client, len(earlier) + len(RESPONSE)))
            async with response_socket(request) as descriptor:
                await asyncio.to_thread(write, descriptor, RESPONSE)
            data = await reading
        request.transport.abort()
        return data

    assert asyncio.run(run()) == earlier + RESPONSE


@pytest.mark.parametrize("what", ["gone", "stalled"])
def test_a_writer_learns_of_a_client_that_takes_nothing(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handoff, "STALL_S", 0.1)

    async def run() -> bool:
        request, client = await connected()
        request.transport.write(EARLIER)
        if what == "gone":
            client.close()
        async with response_socket(request) as descriptor:
            with pytest.raises(OSError, match=r"pipe|reset"):
                await asyncio.to_thread(write, descriptor, RESPONSE * 4)
        client.close()
        closing: bool = request.transport.is_closing()
        return closing

    assert asyncio.run(run())


def test_no_value_begins_another_header() -> None:
    request: Any = SimpleNamespace(keep_alive=False)
    head = response_head(request, 5, {"x-amz-meta-a": "värde"})
    assert head == "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nx-amz-meta-a: värde\r\nConnection: close\r\n\r\n".encode()
    for value in ("a\r\nb: c", "a\nb", "\x00"):
        with pytest.raises(InvalidArgumentError):
            response_head(request, 5, {"x-amz-meta-a": value})
