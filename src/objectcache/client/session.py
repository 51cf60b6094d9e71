"""A data session: the connections to one gateway, opened once and used by every delivery."""

from __future__ import annotations

import socket
from collections.abc import Callable

from objectcache.buffers import BufferPool
from objectcache.client.abilities import Ability
from objectcache.client.control import ControlStream
from objectcache.client.http import GatewayHttp
from objectcache.client.nixl_receivers import NixlReceivers
from objectcache.client.process_receivers import ProcessReceivers
from objectcache.client.receivers import Receivers, SharedReceivers, ThreadReceivers
from objectcache.client.sharing import share_memory
from objectcache.descriptor import TargetKind
from objectcache.errors import (
    DataConnectionsRefusedError,
    GatewayUnavailableError,
    NixlRefusedError,
    SharedMemoryRefusedError,
)
from objectcache.frames import hello_frame
from objectcache.messages import MAX_NIXL_STREAMS, NixlAnswer, SessionAnswer, SessionRequest
from objectcache.transports.connecting import connect, tune
from objectcache.transports.verification import Verification


class DataSession:
    """`http` reaches the very gateway that has the session; `dead` when a connection broke: open another."""

    def __init__(
        self,
        id: bytes,
        kind: TargetKind,
        streams: int,
        http: GatewayHttp,
        receivers: Receivers,
        control: ControlStream,
        *,
        owns_http: bool = False,
    ) -> None:
        self.id = id
        self.kind = kind
        self.streams = streams
        self.http = http
        self._owns_http = owns_http
        self.receivers = receivers
        self.control = control
        self.dead = False

    @classmethod
    def open(
        cls,
        http: GatewayHttp,
        bucket: str,
        pool: BufferPool,
        *,
        target: str,
        streams: int,
        receiver: str,
        receiver_processes: int = 0,
        verify: Verification,
        timeout_s: float,
        controls: Ability,
    ) -> DataSession:
        """`target` is "nixl", "shm", "tcp", or "auto" for the better of the last two; `receiver` is "threads" or
        "process", for TCP. `controls`: gateways have control streams.

        Raises what the gateway answers, NixlRefusedError, SharedMemoryRefusedError, DataConnectionsRefusedError,
        GatewayUnavailableError, DeliveryError (NIXL cannot begin here).
        """
        if target == "nixl":
            streams = min(max(2, streams), MAX_NIXL_STREAMS)  # two: so that one can read while the other writes
        body = SessionRequest(streams).encode()
        answer = SessionAnswer.decode(http.request("POST", f"/{bucket}?kv-session", body))
        own_http = http
        if (answer.http_host, answer.http_port) != (http.endpoint.host, http.endpoint.port):
            own_http = GatewayHttp(http.endpoint.at(answer.http_host, answer.http_port), timeout_s=timeout_s)
        kind, sockets = TargetKind.TCP, []
        if target == "shm" or (target == "auto" and receiver == "threads"):
            try:
                kind, sockets = TargetKind.SHM, share_memory(answer, pool, streams, timeout_s)
            except SharedMemoryRefusedError:
                if target == "shm":
                    raise
                kind = TargetKind.TCP
        elif target == "nixl":
            kind = TargetKind.NIXL
        if kind is TargetKind.TCP:
            sockets = _connect(answer, streams, timeout_s)
        opened: list[DataSession] = []

        def lost() -> None:
            for session in opened:
                session.dead = True

        receivers: Receivers
        if kind is TargetKind.NIXL:
            receivers, sockets = _registered(answer, bucket, own_http, pool, lost, verify, streams, timeout_s)
        elif kind is TargetKind.SHM:
            receivers = SharedReceivers(lost, verify)
        else:
            processes = receiver_processes or max(1, streams // 2)
            receivers = _receivers(receiver, pool, lost, verify, processes)
        control = ControlStream(own_http, bucket, answer.session, controls)
        session = cls(answer.session, kind, streams, own_http, receivers, control, owns_http=own_http is not http)
        opened.append(session)
        for stream, sock in enumerate(sockets):
            receivers.attach(stream, sock)
        return session

    def close(self) -> None:
        self.dead = True
        self.control.close()
        self.receivers.close()
        if self._owns_http:
            self.http.close()


def _connect(answer: SessionAnswer, streams: int, timeout_s: float) -> list[socket.socket]:
    """Striped TCP connections. Raises DataConnectionsRefusedError, GatewayUnavailableError."""
    if not answer.data_port:
        raise DataConnectionsRefusedError("the gateway has no data connections: take KV from HTTP responses")
    sockets: list[socket.socket] = []
    try:
        for stream in range(streams):
            sock = connect(answer.data_host, answer.data_port, timeout_s)
            sockets.append(sock)
            sock.settimeout(None)
            tune(sock)
            sock.sendall(hello_frame(answer.session, stream))
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise GatewayUnavailableError(
            f"no data connection to {answer.data_host}:{answer.data_port}, which the gateway advertises: {error}"
        ) from error
    return sockets


def _registered(
    answer: SessionAnswer,
    bucket: str,
    http: GatewayHttp,
    pool: BufferPool,
    on_lost: Callable[[], None],
    verify: Verification,
    streams: int,
    timeout_s: float,
) -> tuple[Receivers, list[socket.socket]]:
    """The pool registered with NIXL and made known to the gateway, and the line to the worker that may write it from
    here on. Raises NixlRefusedError, GatewayUnavailableError, and what the gateway answers."""
    if not answer.nixl_agent:
        raise NixlRefusedError(
            "the gateway writes to no memory by NIXL: where it runs, pip install 'objectcache[nixl]'; and it needs "
            "nixl = true and, where HTTP is TLS, plain_data = true"
        )
    receivers = NixlReceivers(on_lost, verify, answer.nixl_agent, pool, streams)
    try:
        body = receivers.registration(answer.session)
        receivers.accept(NixlAnswer.decode(http.request("POST", f"/{bucket}?kv-nixl", body, resend=False)).agent)
        return receivers, _connect(answer, 1, timeout_s)
    except BaseException:
        receivers.close()
        raise


def _receivers(
    kind: str, pool: BufferPool, on_lost: Callable[[], None], verify: Verification, processes: int
) -> Receivers:
    if kind == "process":
        return ProcessReceivers(pool, on_lost, verify, processes)
    return ThreadReceivers(on_lost, verify)
