"""The HTTP response as a target: frames in the body, read by a thread of their own."""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import threading
from collections.abc import Callable, Sequence

from objectcache.client.http import GatewayHttp
from objectcache.client.responses import Response
from objectcache.descriptor import Descriptor
from objectcache.errors import GatewayUnavailableError, ObjectCacheError, RequestError
from objectcache.layout import DeliveryGeometry
from objectcache.messages import ANSWER_HEADER, MatchAndRetrieveAnswer, MatchAndRetrieveRequest, RetrieveAnswer
from objectcache.transports.receiver import Expected, ExpectedPart, Receiver, stream_error
from objectcache.transports.verification import Verification

RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class ResponseReception:
    """One delivery in one response."""

    def __init__(self, http_side: GatewayHttp, expected: Expected, verify: Verification) -> None:
        self._http = http_side
        self._expected = expected
        self._receiver = Receiver(verify)
        self._connection: http.client.HTTPConnection | None = None
        self._lock = threading.Lock()
        self._unread: Response | None = None
        """The response, until somebody reads on."""

    def start(self, path: str, descriptor: Descriptor) -> RetrieveAnswer | None:
        """Ask, and read on in a thread. What was accepted, where the head of the response has room to say it.

        Raises what the gateway answers; nothing is written then.
        """
        connection, response = self._ask(path, descriptor.encode(), descriptor.deadline_s)
        self._read_on(connection, response)
        try:
            return RetrieveAnswer.from_header(response.headers.get(ANSWER_HEADER, ""))
        except RequestError:
            return None

    def match(
        self, path: str, request: MatchAndRetrieveRequest, meanwhile: Callable[[], None]
    ) -> tuple[MatchAndRetrieveAnswer, Callable[[], None]]:
        """Ask for what is not known yet; `meanwhile()` is called then. The answer, and what reads on in a thread: to be
        called once it is known to the expected delivery what comes; it does nothing where nothing does. Raises as
        `start`, and what `meanwhile` raises."""
        connection, response = self._ask(path, request.encode(), request.deadline_s, meanwhile)
        try:
            told = response.headers.get(ANSWER_HEADER, "")
            if told:
                return MatchAndRetrieveAnswer.from_header(told), lambda: self._read_on(connection, response)
            answer = MatchAndRetrieveAnswer.decode(response.read())
        except (ObjectCacheError, OSError, http.client.HTTPException) as error:
            self._unread, self._connection = None, None
            response.close()
            connection.close()
            problem = stream_error(error)
            self._receiver.fail(self._expected.delivery, problem)
            raise problem from error
        self._unread, self._connection = None, None
        self._http.finish(connection, response)
        return answer, lambda: None

    def shape(self, geometry: DeliveryGeometry, parts: Sequence[ExpectedPart]) -> None:
        self._receiver.shape(self._expected, geometry, parts)

    def withdraw(self, error: ObjectCacheError) -> None:
        """Nothing comes."""
        self._receiver.fail(self._expected.delivery, error)

    def _ask(
        self, path: str, body: bytes, deadline_s: float, meanwhile: Callable[[], None] | None = None
    ) -> tuple[http.client.HTTPConnection, Response]:
        self._receiver.expect(self._expected)
        try:
            connection, response = self._http.start("POST", path, body, timeout_s=deadline_s, meanwhile=meanwhile)
        except ObjectCacheError as error:
            self._receiver.fail(self._expected.delivery, error)
            raise
        self._connection, self._unread = connection, response
        connection.sock.settimeout(deadline_s + 1.0)
        return connection, response

    def _read_on(self, connection: http.client.HTTPConnection, response: Response) -> None:
        self._unread = None
        threading.Thread(target=self._read, args=(connection, response), name="receive-response", daemon=True).start()

    def cancel(self) -> None:
        """Stop writing; the connection is of no use afterwards."""
        self._receiver.cancel(self._expected.delivery, self._expected.epoch)
        with self._lock:
            connection = self._connection
            if connection is not None and connection.sock is not None:
                with contextlib.suppress(OSError):
                    # Closing must reset the connection: a sender that waits for our window would not notice an end.
                    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                    connection.sock.shutdown(socket.SHUT_RDWR)
                if self._unread is not None:
                    self._unread.close()
                    connection.close()

    def _read(self, connection: http.client.HTTPConnection, response: Response) -> None:
        def recv_exact(out: memoryview) -> None:
            while out:
                count = response.readinto(out)
                if not count:
                    raise GatewayUnavailableError("the response ended early")
                out = out[count:]

        try:
            self._receiver.run(0, recv_exact, until_end_of=self._expected.delivery)
            response.read()  # the rest is empty, and the connection can go on
        except (ObjectCacheError, OSError, http.client.HTTPException, ValueError) as error:
            self._receiver.lost(0, stream_error(error))
            with self._lock:
                self._connection = None
            response.close()
            connection.close()
        else:
            with self._lock:
                self._connection = None
            self._http.finish(connection, response)
