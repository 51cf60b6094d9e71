"""Time to first byte: from sending the descriptor to the first DATA frame's header.

A client of its own, which sees the header when the kernel hands it over: no threads, and nothing to verify. The
descriptor asks for the whole prefix; its credit lets about one frame go out on each connection, and the rest is
cancelled, so that a request takes milliseconds.
"""

from __future__ import annotations

import itertools
import select
import socket
import time
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from types import TracebackType

from objectcache.bench.errors import BenchmarkError
from objectcache.bench.gateway import BUCKET, BenchGateway
from objectcache.bench.retrieve.workload import PART, StoredPrefix
from objectcache.client.http import GatewayHttp
from objectcache.client.responses import answer
from objectcache.descriptor import Descriptor, DescriptorPart, Target, TargetKind
from objectcache.frames import FRAME_HEADER_BYTES, MAX_FRAME_BYTES, Frame, FrameType, decode_frame, hello_frame
from objectcache.layout import DIGEST_BYTES
from objectcache.messages import CancelAnswer, CancelRequest, SessionAnswer, SessionRequest
from objectcache.transports.connecting import connect, tune
from objectcache.transports.sockets import recv_exact

_TIMEOUT_S = 10.0


class FirstByteClient(AbstractContextManager["FirstByteClient"]):
    """A warm session of `streams` connections; `signed` are its requests. Raises ObjectCacheError."""

    def __init__(self, gateway: BenchGateway, prefix: StoredPrefix, streams: int, *, signed: bool = True) -> None:
        self._endpoint = gateway.endpoint if signed else replace(gateway.endpoint, credentials=None)
        self._http = GatewayHttp(self._endpoint, timeout_s=_TIMEOUT_S)
        self._stack = ExitStack()
        self._stack.callback(self._http.close)
        self._prefix = prefix
        self._numbers = itertools.count(1)
        self._scratch = memoryview(bytearray(MAX_FRAME_BYTES))
        self._head = memoryview(bytearray(FRAME_HEADER_BYTES))
        self._poll = select.poll()
        self._sockets: dict[int, socket.socket] = {}
        try:
            self._open(streams)
        except BaseException:
            self._stack.close()
            raise

    def _open(self, streams: int) -> None:
        body = self._http.request("POST", f"/{BUCKET}?kv-session", SessionRequest(streams).encode())
        answer = SessionAnswer.decode(body)
        self._session = answer.session
        for stream in range(streams):
            sock = self._stack.enter_context(connect(answer.data_host, answer.data_port, _TIMEOUT_S))
            tune(sock)
            sock.sendall(hello_frame(answer.session, stream))
            self._sockets[sock.fileno()] = sock
            self._poll.register(sock, select.POLLIN)
        self._control = self._http.connect()
        self._stack.callback(self._control.close)

    def measure(self, first: int = 0, stop: int | None = None) -> float:
        """Seconds from sending a descriptor for chunks [first, stop) of the prefix (default: all) to the first DATA
        frame's header in our hands."""
        descriptor = self._descriptor(first, len(self._prefix.chain) if stop is None else stop)
        data = descriptor.encode()
        start_s = time.perf_counter()
        self._send("POST", "kv-retrieve", data)
        ready = self._poll.poll(_TIMEOUT_S * 1e3)
        if not ready:
            raise BenchmarkError(f"no frame came within {_TIMEOUT_S:.0f} s")
        came = self._sockets[ready[0][0]]
        recv_exact(came, self._head)
        seconds = time.perf_counter() - start_s
        frame = decode_frame(self._head)
        if frame.type is not FrameType.DATA:
            raise BenchmarkError(f"the first frame is {frame.type.name}, not data")
        self._finish(descriptor, came, frame)
        return seconds

    def _descriptor(self, first: int, stop: int) -> Descriptor:
        prefix = self._prefix
        layout = prefix.namespace.layout
        part = DescriptorPart.of(PART, first, stop, prefix.chain[stop - 1], layout)
        # No frame is larger than this, whatever digests it brings.
        segment_chunks = prefix.headers[0].num_chunks
        data_bytes = min(MAX_FRAME_BYTES, segment_chunks * max(part.slice_bytes))
        frame_bytes = FRAME_HEADER_BYTES + segment_chunks * DIGEST_BYTES + data_bytes
        return Descriptor(
            namespace=prefix.namespace.digest,
            parts=(part,),
            target=Target(TargetKind.TCP, self._session),
            delivery=next(self._numbers),
            credit_bytes=frame_bytes * len(self._sockets),
            deadline_s=_TIMEOUT_S,
        )

    def _finish(self, descriptor: Descriptor, first: socket.socket, frame: Frame) -> None:
        """Cancel the rest, and read all that was sent, so that the next request finds nothing in its way."""
        self._answer()
        cancel = CancelRequest(self._session, descriptor.delivery, descriptor.epoch, _TIMEOUT_S).encode()
        self._send("DELETE", "kv-delivery", cancel)
        # Read on before the answer: frames that fill a connection's buffers must end before all is quiet.
        self._discard(first, frame)
        for sock in self._sockets.values():
            last = False
            while not last:
                recv_exact(sock, self._head)
                frame = decode_frame(self._head)
                self._discard(sock, frame)
                last = frame.type is not FrameType.DATA
        CancelAnswer.decode(self._answer())

    def _send(self, method: str, resource: str, body: bytes) -> None:
        target = f"/{BUCKET}?{resource}"
        self._endpoint.send(self._control, method, target, body)

    def _answer(self) -> bytes:
        response = answer(self._control, "POST")
        self._http.check(self._control, response)
        return response.read()

    def _discard(self, sock: socket.socket, frame: Frame) -> None:
        for size in (frame.extra * DIGEST_BYTES, frame.data_bytes):
            recv_exact(sock, self._scratch[:size])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
