"""Handing an HTTP connection to a data worker for a body, so that no megabyte passes through the event loop.

A response: the worker gets a duplicate of the socket and writes head and body itself (under TLS: one end of a socket
pair, whose other end the event loop encrypts). A request's body: a client that waits for 100-continue has sent nothing
yet, so the worker gets the socket, says "continue" and reads; any other body is pumped to the worker through a socket
pair.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_writer import StreamWriter

from objectcache.errors import InvalidArgumentError, MissingContentLengthError, RequestError
from objectcache.gateway.object_headers import is_header_value
from objectcache.workers.bodies import BODY_FRAME

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_PUMP_BYTES = 256 << 10
STALL_S = 60.0
"""How long a client may take nothing of a response that is pumped to it."""


class HandedOffResponse(web.StreamResponse):
    """A response that a worker has written. `whole` says that it did to the end, so that the connection can go on,
    unless the client wants it closed."""

    def __init__(self, request: web.Request, *, whole: bool) -> None:
        super().__init__()
        self._goes_on = whole and request.keep_alive

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None

    @property
    def keep_alive(self) -> bool | None:
        return self._goes_on


def response_head(request: web.Request, length: int, headers: dict[str, str], *, status: str = "200 OK") -> bytes:
    """The head of a response whose body a worker sends. Raises InvalidArgumentError for a value that is no header's."""
    fields = {"Content-Length": str(length)} | headers
    if not request.keep_alive:
        fields["Connection"] = "close"
    for name, value in fields.items():
        if not is_header_value(value):
            raise InvalidArgumentError(f"the header {name} cannot have control characters in it")
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")


def _request_socket(request: web.Request) -> socket.socket:
    """The connection's socket, for passing on; still the event loop's to close."""
    transport = request.transport
    found = transport.get_extra_info("socket") if transport is not None else None
    if transport is None or found is None:
        raise RequestError("the client went away")
    sock: socket.socket = found
    return sock


def is_encrypted(request: web.Request) -> bool:
    """Whether what is on the socket is TLS, which only the event loop can speak."""
    return request.transport is not None and request.transport.get_extra_info("sslcontext") is not None


@asynccontextmanager
async def response_socket(request: web.Request) -> AsyncIterator[int]:
    """A descriptor to write the whole response to, head and body. All has been passed on when the context ends.

    Raises RequestError when the client is gone.
    """
    if not is_encrypted(request) and not _has_more_to_write(request):
        yield _request_socket(request).fileno()
        return
    mine, theirs = socket.socketpair()
    mine.setblocking(False)
    pump = asyncio.create_task(_pump_out(mine, request))
    try:
        with theirs:
            yield theirs.fileno()
        # The worker has closed its duplicate when it answers: the pump sees the end.
        await pump
    finally:
        pump.cancel()
        await asyncio.gather(pump, return_exceptions=True)
        mine.close()


def content_length(request: web.Request) -> int:
    """Raises MissingContentLengthError for a body without a length."""
    if request.content_length is None:
        raise MissingContentLengthError("a body needs a Content-Length")
    return request.content_length


def awaits_continue(request: web.Request) -> bool:
    return request.headers.get(hdrs.EXPECT, "").lower() == "100-continue"


def say_continue(request: web.Request) -> None:
    """Ask for the body, of a client that waits to be asked."""
    if awaits_continue(request) and request.transport is not None:
        request.transport.write(CONTINUE)


@asynccontextmanager
async def body_socket(request: web.Request, *, raw: bool = True) -> AsyncIterator[tuple[int, bool]]:
    """A descriptor to read the body from, and whether the reader must say 100-continue first.

    Without `raw`, what comes is in HTTP's own chunks, which the event loop decodes; it goes on in frames.
    """
    if raw and awaits_continue(request) and not is_encrypted(request) and _nothing_came(request):
        try:
            yield _request_socket(request).fileno(), True
        finally:
            # The body never passed the parser: this connection cannot carry another request.
            request.content.feed_eof()
            if request.transport is not None:
                request.transport.resume_reading()
        return
    say_continue(request)
    mine, theirs = socket.socketpair()
    mine.setblocking(False)
    pump = asyncio.create_task(_pump(request, mine, framed=not raw))
    try:
        yield theirs.fileno(), False
    finally:
        theirs.close()
        pump.cancel()
        await asyncio.gather(pump, return_exceptions=True)
        mine.close()


def _nothing_came(request: web.Request) -> bool:
    """Stop reading from the connection. False when a part of the body has been read: clients need not wait for ever,
    and some do not wait at all."""
    if request.transport is None:
        return False
    request.transport.pause_reading()
    if not request.content.total_bytes:
        return True
    request.transport.resume_reading()
    return False


def _has_more_to_write(request: web.Request) -> bool:
    """Whether an earlier answer is still on its way to a client that did not wait for it."""
    transport = request.transport
    return isinstance(transport, asyncio.WriteTransport) and transport.get_write_buffer_size() > 0


async def _pump_out(source: socket.socket, request: web.Request) -> None:
    """What comes from `source` goes to the client as it is. Whoever writes at its other end learns of a client that is
    gone, or takes nothing."""
    loop = asyncio.get_running_loop()
    client = StreamWriter(request.protocol, loop)
    try:
        while data := await loop.sock_recv(source, _PUMP_BYTES):
            if request.transport is None or request.transport.is_closing():
                return
            request.transport.write(data)
            async with asyncio.timeout(STALL_S):
                await client.drain()
    except (OSError, TimeoutError):
        if request.transport is not None:
            request.transport.abort()
    finally:
        with suppress(OSError):
            source.shutdown(socket.SHUT_RDWR)


async def _pump(request: web.Request, into: socket.socket, *, framed: bool) -> None:
    """The body goes `into` a socket. `framed`: as it has no length, each piece comes behind its own, and the end is a
    piece of nothing; without that, a body that broke off would look like one that is over."""
    loop = asyncio.get_running_loop()
    try:
        async for data in request.content.iter_any():
            if framed and data:
                await loop.sock_sendall(into, BODY_FRAME.pack(len(data)))
            await loop.sock_sendall(into, data)
        if framed:
            await loop.sock_sendall(into, BODY_FRAME.pack(0))
    finally:
        with suppress(OSError):
            into.shutdown(socket.SHUT_WR)
