"""Control requests to a gateway: blocking HTTP over kept-alive connections, errors typed."""

from __future__ import annotations

import http.client
import select
import threading
import time
from collections.abc import Callable

from objectcache.client.breaker import Breaker
from objectcache.client.endpoint import Endpoint
from objectcache.client.responses import Response, answer
from objectcache.errors import DeliveryTimeoutError, GatewayUnavailableError, ObjectCacheError
from objectcache.s3 import parse_error

MAX_IDLE_CONNECTIONS = 8
SHORTEST_TIMEOUT_S = 0.001
"""Less would be none at all: 0 makes a socket non-blocking."""


class GatewayHttp:
    """One gateway's HTTP side. Thread-safe: every request has a connection to itself while it runs."""

    def __init__(self, endpoint: Endpoint, *, timeout_s: float) -> None:
        self.endpoint = endpoint
        self._timeout_s = timeout_s
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()
        self._breaker = Breaker()
        self._closed = False

    def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        timeout_s: float | None = None,
        resend: bool = True,
        meanwhile: Callable[[], None] | None = None,
    ) -> bytes:
        """The body of a 2xx answer. Raises the error that the gateway answered, or GatewayUnavailableError.

        `resend` False: it is sent once. Otherwise again, by a new connection, when a kept one broke. `meanwhile()` is
        called once it has been sent for the first time; what that raises is raised.
        """
        connection, response = self.start(method, path, body, timeout_s=timeout_s, resend=resend, meanwhile=meanwhile)
        try:
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise GatewayUnavailableError(f"the answer of {self._where} broke off: {error!r}") from error
        self.finish(connection, response)
        return data

    def start(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        timeout_s: float | None = None,
        resend: bool = True,
        meanwhile: Callable[[], None] | None = None,
    ) -> tuple[http.client.HTTPConnection, Response]:
        """A request, and the head of its 2xx response; the caller reads the rest and calls `finish` or closes.

        Raises DeliveryTimeoutError when there is no answer within `timeout_s`, where that is less than usual.
        """
        bound_s = self.bound_s(timeout_s)
        reused, connection = self._take(bound_s)
        if reused and not resend and was_closed(connection):
            connection.close()
            reused, connection = False, self.connect(bound_s)
        try:
            response = self._send(connection, method, path, body, bound_s, meanwhile)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            if not reused or not resend or isinstance(error, TimeoutError):
                raise self.no_answer(error, bound_s) from error
            # A kept connection may have been closed by the other side since: that says nothing about the gateway.
            self._drop_idle()
            connection = self.connect(bound_s)
            try:
                response = self._send(connection, method, path, body, bound_s)
            except (OSError, http.client.HTTPException) as again:
                connection.close()
                raise self.no_answer(again, bound_s) from again
        self.answered()
        self.check(connection, response)
        return connection, response

    def check(self, connection: http.client.HTTPConnection, response: Response, *, keeps: bool = True) -> None:
        """Raises the error that a response is, if it is one; `keeps` the connection for the next request then."""
        if response.status < 300:
            return
        try:
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise GatewayUnavailableError(f"the answer of {self._where} broke off: {error!r}") from error
        if keeps:
            self.finish(connection, response)
        raise parse_error(response.status, body)

    def finish(self, connection: http.client.HTTPConnection, response: Response) -> None:
        """The response is read: keep the connection for the next request, if it can go on."""
        with self._lock:
            reusable = response.isclosed() and connection.sock is not None
            if reusable and not self._closed and len(self._idle) < MAX_IDLE_CONNECTIONS:
                self._idle.append(connection)
                return
        connection.close()

    def connect(self, timeout_s: float | None = None) -> http.client.HTTPConnection:
        """A connection of the caller's own. Raises GatewayUnavailableError, DeliveryTimeoutError as `start`."""
        if self._closed:
            raise GatewayUnavailableError("the cache is closed")
        bound_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            return self.endpoint.connect(bound_s)
        except OSError as error:
            raise self.no_answer(error, bound_s) from error

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self._drop_idle()

    def _take(self, timeout_s: float) -> tuple[bool, http.client.HTTPConnection]:
        with self._lock:
            if not self._breaker.allows(time.monotonic()):
                raise GatewayUnavailableError(f"{self._where} failed repeatedly; leaving it alone for a while")
            if self._idle:
                return True, self._idle.pop()
        return False, self.connect(timeout_s)

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes,
        timeout_s: float,
        meanwhile: Callable[[], None] | None = None,
    ) -> Response:
        connection.sock.settimeout(timeout_s)
        self.endpoint.send(connection, method, path, body)
        if meanwhile is not None:
            try:
                meanwhile()
            except BaseException:
                connection.close()
                raise
        return answer(connection, method)

    def bound_s(self, timeout_s: float | None) -> float:
        """How long an answer is waited for."""
        return self._timeout_s if timeout_s is None else min(self._timeout_s, max(timeout_s, SHORTEST_TIMEOUT_S))

    def answered(self) -> None:
        """The gateway did."""
        self._breaker.succeeded()

    def no_answer(self, error: Exception, bound_s: float) -> ObjectCacheError:
        """It did not, within `bound_s`: what is to be raised."""
        if isinstance(error, TimeoutError) and bound_s < self._timeout_s:
            # Somebody is in more of a hurry than a gateway need be: that is late, and says nothing about it.
            return DeliveryTimeoutError(f"no answer from {self._where} within {bound_s:g} s")
        with self._lock:
            self._breaker.failed(time.monotonic())
        return GatewayUnavailableError(f"no answer from {self._where}: {error!r}")

    def _drop_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    @property
    def _where(self) -> str:
        return f"the gateway at {self.endpoint.host}:{self.endpoint.port}"


def was_closed(connection: http.client.HTTPConnection) -> bool:
    """Whether the other side has closed a kept connection, or said something that nobody asked for."""
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))
