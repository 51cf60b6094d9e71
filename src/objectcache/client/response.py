"""The HTTP response as a target: frames in the body, read by a thread of their own."""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import threading

from objectcache.client.http import GatewayHttp
from objectcache.descriptor import Descriptor
from objectcache.errors import GatewayUnavailableError, ObjectCacheError, RequestError
from objectcache.messages import ANSWER_HEADER, RetrieveAnswer
from objectcache.transports.receiver import Expected, Receiver, stream_error
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

    def start(self, path: str, descriptor: Descriptor) -> RetrieveAnswer | None:
        """Ask, and read on in a thread. What was accepted, where the head of the response has room to say it.

        Raises what the gateway answers; nothing is written then.
        """
        self._receiver.expect(self._expected)
        try:
            connection, response = self._http.start("POST", path, descriptor.encode(), timeout_s=descriptor.deadline_s)
        except ObjectCacheError as error:
            self._receiver.fail(self._expected.delivery, error)
            raise
        self._connection = connection
        connection.sock.settimeout(descriptor.deadline_s + 1.0)
        threading.Thread(target=self._read, args=(connection, response), name="receive-response", daemon=True).start()
        try:
            return RetrieveAnswer.from_header(response.headers.get(ANSWER_HEADER, ""))
        except RequestError:
            return None

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

    def _read(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
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
            connection.close()
        else:
            with self._lock:
                self._connection = None
            self._http.finish(connection, response)
