"""Offering this process's memory to a gateway on the same host."""

from __future__ import annotations

import socket
from contextlib import ExitStack, suppress

from objectcache.buffers import BufferPool
from objectcache.errors import DeliveryError, GatewayUnavailableError, ObjectCacheError, SharedMemoryRefusedError
from objectcache.frames import (
    FRAME_HEADER_BYTES,
    MAX_CONTROL_BYTES,
    FrameType,
    decode_error,
    decode_frame,
    hello_frame,
)
from objectcache.messages import SessionAnswer
from objectcache.transports.sockets import recv_exact


def share_memory(answer: SessionAnswer, pool: BufferPool, streams: int, timeout_s: float) -> list[socket.socket]:
    """The connections of a session, with a gateway that may place KV in `pool` from here on.

    Raises SharedMemoryRefusedError when the gateway cannot or will not, and the session is as it was; afterwards
    GatewayUnavailableError.
    """
    if not answer.shm_socket:
        raise SharedMemoryRefusedError("the gateway shares no memory with its clients")
    with ExitStack() as stack:
        sockets = []
        for stream in range(streams):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            sock.settimeout(timeout_s)
            try:
                _greet(sock, answer, stream, pool)
            except (OSError, ObjectCacheError) as error:
                if stream:
                    raise GatewayUnavailableError(f"the gateway stopped sharing memory: {error}") from error
                if isinstance(error, ObjectCacheError) and not isinstance(error, GatewayUnavailableError):
                    raise
                raise SharedMemoryRefusedError(
                    f"the gateway's socket for shared memory cannot be reached from here ({error}): it is on another "
                    "host, or in another network namespace"
                ) from error
            sock.settimeout(None)
            sockets.append(sock)
        stack.pop_all()
        return sockets


def _greet(sock: socket.socket, answer: SessionAnswer, stream: int, pool: BufferPool) -> None:
    """Raises OSError, and what the gateway answers."""
    sock.connect(f"\0{answer.shm_socket}")
    hello = hello_frame(answer.session, stream, prefaulted=pool.prefaulted)
    with suppress(BrokenPipeError):  # a gateway that refuses this user has said so, and closed already
        if stream == 0:
            socket.send_fds(sock, [hello], [pool.fileno()])
        else:
            sock.sendall(hello)
    head = memoryview(bytearray(FRAME_HEADER_BYTES))
    recv_exact(sock, head)
    frame = decode_frame(head)
    if frame.type is FrameType.ERROR and frame.data_bytes <= MAX_CONTROL_BYTES:
        payload = memoryview(bytearray(frame.data_bytes))
        recv_exact(sock, payload)
        raise decode_error(payload)
    if frame.type is not FrameType.HELLO:
        raise DeliveryError(f"the gateway answered a hello with {frame.type.name}")
