"""Control streams: HTTP connections over which a session's gateway is asked without HTTP, from there on.

A request by HTTP costs more than what it asks for: a head made, signed, parsed, routed and verified again, in processes
whose caches are cold. A control stream is opened by a signed request for one session; what it is asked then is answered
where its bytes come in, unless something must be waited for. Whoever opened it is looked up for each ask.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import select
import time
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import NamedTuple

from aiohttp import hdrs, web

from objectcache.descriptor import ID_BYTES
from objectcache.errors import (
    AccessDeniedError,
    InvalidAccessKeyIdError,
    InvalidArgumentError,
    MethodNotAllowedError,
    RequestError,
    SignatureDoesNotMatchError,
)
from objectcache.gateway.answers import typed_error
from objectcache.gateway.buckets import BucketTable
from objectcache.gateway.call import Call, Handler
from objectcache.gateway.draining import Drain
from objectcache.gateway.handoff import HandedOffResponse
from objectcache.gateway.sessions import Session, SessionTable
from objectcache.messages.control import (
    CONTROL_PROTOCOL,
    SESSION_HEADER,
    ControlFrame,
    ControlReader,
    control_frame,
)
from objectcache.s3 import Grant, error_body

log = logging.getLogger(__name__)

_SWITCHED = f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {CONTROL_PROTOCOL}\r\n\r\n".encode()
_ONE_AT_A_TIME = "a control stream is asked one thing at a time: the last answer comes first"


class Ask(NamedTuple):
    """What one number of `Asked` stands for: `answer(call, body)` is the body that HTTP would answer with, at once or
    later; raises as the handler would. `operation` is what it is counted as."""

    operation: str
    answer: Callable[[Call, bytes], bytes | Awaitable[bytes]]


Count = Callable[[str, int, float], None]
"""Told of the operation, the status, and how long it took."""


class ControlRoute:
    """Opens control streams. `close` ends those that are open."""

    def __init__(
        self, buckets: BucketTable, sessions: SessionTable, drain: Drain, asks: Mapping[int, Ask], count: Count
    ) -> None:
        self._buckets = buckets
        self._sessions = sessions
        self._drain = drain
        self._asks = asks
        self._count = count
        self._open: set[ControlStream] = set()
        self.handlers: dict[str, Handler] = {CONTROL_PROTOCOL: self.open}

    async def open(self, call: Call) -> web.StreamResponse:
        """Returns when the stream has ended: the connection is aiohttp's until then."""
        self._drain.check()
        await self._buckets.get(call.bucket)
        if call.header(hdrs.UPGRADE).lower() != CONTROL_PROTOCOL:
            raise RequestError(f"a control stream is asked for by Upgrade: {CONTROL_PROTOCOL}")
        session = self._sessions.get(_session_id(call), call.bucket, call.caller.access_key)
        signature = call.header(hdrs.AUTHORIZATION) or call.query.get("X-Amz-Signature", "")
        if signature in session.control_signatures:
            raise AccessDeniedError("a signed request opens one control stream: sign another one")
        if signature:
            session.control_signatures.add(signature)
        transport = call.request.transport
        if transport is None or transport.is_closing():
            raise RequestError("the client went away")
        assert isinstance(transport, asyncio.Transport)
        stream = ControlStream(transport, call, session, self._asks, self._count)
        self._open.add(stream)
        try:
            transport.write(_SWITCHED)
            transport.set_protocol(stream)
            await stream.ended
        finally:
            self._open.discard(stream)
            transport.abort()
        response = HandedOffResponse(call.request, whole=False)
        response.set_status(HTTPStatus.SWITCHING_PROTOCOLS)
        return response

    def close(self) -> None:
        for stream in self._open:
            stream.abort()


class ControlStream(asyncio.Protocol):
    """One of them. Asks are answered one after the other: a client has one under way."""

    def __init__(
        self, transport: asyncio.Transport, call: Call, session: Session, asks: Mapping[int, Ask], count: Count
    ) -> None:
        """`call` opens it."""
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport = transport
        self._call = call
        self._secret = call.caller.secret()
        self._session = session
        self._asks = asks
        self._count = count
        self._reader = ControlReader()
        self._later: asyncio.Task[None] | None = None
        self._gone = select.poll()
        self._gone.register(transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
        if session.control is not None:
            session.control.abort()
        session.control = transport

    def abort(self) -> None:
        self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        if self._session.control is self._transport:
            self._session.control = None
        self._call.request.protocol.connection_lost(error)
        if not self.ended.done():
            self.ended.set_result(None)

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            frame = self._reader.take()
            if frame is None:
                return
            if self._reader.holds:  # else whoever sends many at once would have all of the loop's time
                raise RequestError(_ONE_AT_A_TIME)
            self._ask(frame)
        except RequestError as error:  # nothing behind it makes sense
            self._fail("unknown", 0, error, time.perf_counter())
            if self._transport.get_write_buffer_size():  # of a client that reads nothing, which would keep it
                self._transport.abort()
            else:
                self._transport.close()

    def _ask(self, frame: ControlFrame) -> None:
        """Raises RequestError where the stream is to end."""
        started_s = time.perf_counter()
        if self._later is not None or self._transport.get_write_buffer_size():
            raise RequestError(_ONE_AT_A_TIME)
        if self._gone.poll(0):  # its client gave up, and what it asked for would be sent to nobody
            self.abort()
            return
        operation = "unknown"
        try:
            ask = self._asks.get(frame.code)
            if ask is None:
                raise MethodNotAllowedError(f"nothing that a control stream is asked has the number {frame.code}")
            operation = ask.operation
            self._check_access()
            answer = ask.answer(self._call, frame.body)
        except Exception as problem:  # noqa: BLE001 - as of requests by HTTP
            self._fail(operation, frame.id, problem, started_s)
            return
        if isinstance(answer, bytes):
            self._answer(operation, frame.id, 200, answer, started_s)
        else:
            self._later = asyncio.create_task(self._wait(answer, operation, frame.id, started_s))

    def _check_access(self) -> None:
        """As a signature made now would be: keys change while the stream is open. Raises RequestError."""
        caller = self._call.caller
        secret = caller.secret()
        if secret != self._secret:
            wrong = SignatureDoesNotMatchError if secret else InvalidAccessKeyIdError
            raise wrong("the access key is not what it was when the control stream was opened")
        caller.require(self._call.bucket, Grant.READ)

    async def _wait(self, answer: Awaitable[bytes], operation: str, id: int, started_s: float) -> None:
        try:
            body = await answer
        except Exception as problem:  # noqa: BLE001 - as of requests by HTTP
            self._later = None
            self._fail(operation, id, problem, started_s)
        else:
            self._later = None
            self._answer(operation, id, 200, body, started_s)

    def _fail(self, operation: str, id: int, problem: Exception, started_s: float) -> None:
        request = self._call.request
        error = typed_error(problem, request)
        log.info("%s %s: %s: %s", operation, request.path, error.code, error)
        body = error_body(error, request.path, secrets.token_hex(8))
        self._answer(operation, id, error.status, body, started_s)

    def _answer(self, operation: str, id: int, status: int, body: bytes, started_s: float) -> None:
        if not self._transport.is_closing():
            self._transport.write(control_frame(status, id, body))
        took_s = time.perf_counter() - started_s
        asyncio.get_running_loop().call_soon(self._count, operation, status, took_s)


def _session_id(call: Call) -> bytes:
    try:
        id = bytes.fromhex(call.header(SESSION_HEADER))
    except ValueError:
        id = b""
    if len(id) != ID_BYTES:
        raise InvalidArgumentError(f"{SESSION_HEADER} names a session by {2 * ID_BYTES} hexadecimal digits")
    return id
