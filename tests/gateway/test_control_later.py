"""Control streams whose answers must be waited for, without a gateway around them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from objectcache.errors import KeyNotFoundError, RequestError
from objectcache.gateway.control import Ask, ControlStream
from objectcache.messages.control import Asked, ControlFrame, ControlReader, control_frame
from tests.gateway.control import error_of


class World:
    """One that is open; what it is asked is answered with the next of `answers`."""

    def __init__(self) -> None:
        self.answers: list[bytes | Awaitable[bytes]] = []
        self.counted: list[tuple[str, int]] = []
        self._reader = ControlReader()

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        theirs, ours = socket.socketpair()
        theirs.setblocking(False)
        self.sock = theirs
        transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
        caller = SimpleNamespace(secret=lambda: "", require=lambda bucket, grant: None)
        request = SimpleNamespace(path="/bucket", protocol=SimpleNamespace(connection_lost=lambda error: None))
        call: Any = SimpleNamespace(caller=caller, bucket="bucket", request=request)
        session: Any = SimpleNamespace(control=None)
        asks: dict[int, Ask] = {Asked.MATCH_AND_RETRIEVE: Ask("asked", lambda call, body: self.answers.pop(0))}
        self.stream = ControlStream(
            transport, call, session, asks, lambda operation, status, took_s: self.counted.append((operation, status))
        )
        transport.set_protocol(self.stream)

    async def ask(self, id: int) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, control_frame(Asked.MATCH_AND_RETRIEVE, id, b""))

    async def read(self) -> ControlFrame | None:
        while (frame := self._reader.take()) is None:
            data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.sock, 1 << 16), 5.0)
            if not data:
                return None
            self._reader.feed(data)
        return frame


def run(check: Callable[[World], Awaitable[None]]) -> World:
    world = World()

    async def whole() -> None:
        await world.open()
        try:
            await check(world)
        finally:
            world.stream.abort()
            await world.stream.ended
            world.sock.close()

    asyncio.run(whole())
    return world


def test_an_answer_that_must_be_waited_for() -> None:
    async def check(world: World) -> None:
        later = asyncio.get_running_loop().create_future()
        world.answers = [later, b"at once"]
        await world.ask(1)
        await asyncio.sleep(0.01)
        later.set_result(b"later")
        assert await world.read() == ControlFrame(200, 1, b"later")
        await world.ask(2)
        assert await world.read() == ControlFrame(200, 2, b"at once")

    assert run(check).counted == [("asked", 200), ("asked", 200)]


def test_one_that_fails_then() -> None:
    async def check(world: World) -> None:
        later = asyncio.get_running_loop().create_future()
        world.answers = [later, b"at once"]
        await world.ask(1)
        later.set_exception(KeyNotFoundError("it is gone"))
        frame = await world.read()
        assert frame is not None
        assert (frame.id, type(error_of(frame))) == (1, KeyNotFoundError)
        await world.ask(2)
        assert await world.read() == ControlFrame(200, 2, b"at once")

    run(check)


@pytest.mark.parametrize("at_once", [True, False])
def test_what_is_asked_beside_it_ends_the_stream(at_once: bool) -> None:
    """Whether it comes with it or behind it."""

    async def check(world: World) -> None:
        later = asyncio.get_running_loop().create_future()
        world.answers = [later, b"never"]
        await world.ask(1)
        if not at_once:
            await asyncio.sleep(0.01)
        await world.ask(2)
        frame = await world.read()
        assert frame is not None
        assert (frame.id, type(error_of(frame))) == (0, RequestError)
        assert await world.read() is None
        later.cancel()

    run(check)


def test_who_is_gone_is_not_answered() -> None:
    async def check(world: World) -> None:
        world.answers = [b"never"]
        with world.sock.dup() as other:
            await world.ask(1)
            other.shutdown(socket.SHUT_RDWR)
        await asyncio.wait_for(world.stream.ended, 5.0)
        assert world.answers == [b"never"]

    run(check)
