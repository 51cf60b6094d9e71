"""A session's control stream, as its client has it: asked without HTTP where that can be, else by HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException

from objectcache.client.abilities import Ability
from objectcache.client.http import GatewayHttp, was_closed
from objectcache.client.responses import answer
from objectcache.errors import (
    DeliveryTimeoutError,
    GatewayUnavailableError,
    ObjectCacheError,
    RequestError,
    SessionNotFoundError,
)
from objectcache.messages.control import (
    CONTROL_PROTOCOL,
    SESSION_HEADER,
    Asked,
    ControlFrame,
    ControlReader,
    control_frame,
)
from objectcache.messages.packing import MAX_MESSAGE_BYTES
from objectcache.s3 import parse_error

OPEN_S = 2.0
"""The longest that who asks waits for a stream: there is another way."""
_READ_BYTES = 1 << 16


class ControlStream:
    """It is opened when something is first asked. Thread-safe: who finds it in use asks by HTTP.

    `ability` is the gateway's to have one: missed where it cannot be opened, or does not last.
    """

    def __init__(self, http: GatewayHttp, bucket: str, session: bytes, ability: Ability) -> None:
        self._http = http
        self._bucket = bucket
        self._session = session
        self._ability = ability
        self._lock = threading.Lock()
        self._connection: HTTPConnection | None = None
        self._reader = ControlReader()
        self._asked = 0
        self._proven = False
        """Whether the connection has carried an answer."""
        self._closed = False

    def ask(
        self,
        asked: Asked,
        path: str,
        body: bytes,
        *,
        timeout_s: float | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> bytes:
        """As `GatewayHttp.request("POST", path, body, resend=False)`, with what that raises."""
        if len(body) <= MAX_MESSAGE_BYTES and self._lock.acquire(blocking=False):
            begun_s = time.monotonic()
            try:
                connection = self._find(timeout_s)
                if connection is not None:
                    return self._exchange(connection, asked, body, self._http.bound_s(timeout_s), meanwhile)
            finally:
                self._lock.release()
                if self._closed:
                    self.close()
            if timeout_s is not None:
                timeout_s -= time.monotonic() - begun_s
        return self._http.request("POST", path, body, timeout_s=timeout_s, resend=False, meanwhile=meanwhile)

    def close(self) -> None:
        """What is under way goes on to its end."""
        self._closed = True
        if self._lock.acquire(blocking=False):
            try:
                self._drop()
            finally:
                self._lock.release()

    def _find(self, timeout_s: float | None) -> HTTPConnection | None:
        if self._connection is not None:
            if not was_closed(self._connection):
                return self._connection
            # With the session, or it was idle for longer than something on the way likes.
            self._drop()
            self._ability.missed(time.monotonic())
        if self._closed or not self._ability.expected(time.monotonic()):
            return None
        try:
            self._connection, self._reader = self._open(timeout_s), ControlReader()
        except SessionNotFoundError:
            return None  # which says nothing about another one
        except ObjectCacheError as error:
            hurried = isinstance(error, DeliveryTimeoutError) and timeout_s is not None and timeout_s < OPEN_S
            if not hurried:
                self._ability.missed(time.monotonic())
            return None
        self._proven = False
        return self._connection

    def _open(self, timeout_s: float | None) -> HTTPConnection:
        """Raises ObjectCacheError."""
        connection = self._http.connect(self._http.bound_s(OPEN_S if timeout_s is None else min(OPEN_S, timeout_s)))
        try:
            self._http.endpoint.send(
                connection,
                "GET",
                f"/{self._bucket}?{CONTROL_PROTOCOL}",
                signed={SESSION_HEADER: self._session.hex()},
                unsigned={"Connection": "Upgrade", "Upgrade": CONTROL_PROTOCOL},
            )
            response = answer(connection, "GET")
            if response.status == HTTPStatus.SWITCHING_PROTOCOLS:
                response.close()
                return connection
            self._http.check(connection, response, keeps=False)
        except TimeoutError as error:
            connection.close()
            raise DeliveryTimeoutError("no control stream in time") from error
        except (OSError, HTTPException) as error:
            connection.close()
            raise GatewayUnavailableError(f"no control stream: {error!r}") from error
        except BaseException:
            connection.close()
            raise
        connection.close()
        raise GatewayUnavailableError(f"no control stream, but status {response.status}")

    def _exchange(
        self,
        connection: HTTPConnection,
        asked: Asked,
        body: bytes,
        bound_s: float,
        meanwhile: Callable[[], None] | None,
    ) -> bytes:
        self._asked += 1
        try:
            connection.sock.settimeout(bound_s)
            connection.sock.sendall(control_frame(asked, self._asked, body))
            if meanwhile is not None:
                meanwhile()
            frame = self._receive(connection)
        except OSError as error:
            self._drop()
            # A gateway may be slow. But what has never carried an answer, or carries something else, never may: there
            # are proxies that pass the upgrade on, and not what follows. HTTP goes through those.
            if not self._proven or not isinstance(error, TimeoutError):
                self._ability.missed(time.monotonic())
            raise self._http.no_answer(error, bound_s) from error
        except BaseException:
            self._drop()
            raise
        self._proven = True
        self._http.answered()
        if frame.code >= 300:
            if not frame.id:
                self._drop()
            raise parse_error(frame.code, frame.body)
        return frame.body

    def _receive(self, connection: HTTPConnection) -> ControlFrame:
        """Raises OSError, also for what is no answer."""
        try:
            while (frame := self._reader.take()) is None:
                data = connection.sock.recv(_READ_BYTES)
                if not data:
                    raise ConnectionError("the control stream ended without an answer")
                self._reader.feed(data)
        except RequestError as error:
            raise ConnectionError(f"no answer, but {error}") from error
        if frame.id != self._asked and (frame.id or frame.code < 300):
            raise ConnectionError("the answer is to something else")
        if frame.code != HTTPStatus.OK and frame.code < 300:
            raise ConnectionError(f"no answer has the status {frame.code}")
        return frame

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
