"""TCP connections that carry megabytes: what both ends want of them, and who chooses how fast they may send.

Within a host there is no network whose rate is to be found out. BBR, which many systems have by default, paces what is
sent, after each pause from a guess on: there it takes twice as long as the plainest congestion control. That has to be
chosen before there is a connection: what was paced once the kernel paces for ever, whatever is chosen then. Between
hosts, and where it is another, the system's choice counts.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

from objectcache.errors import ConfigError

Socket = Any
"""A socket.socket, or asyncio's for one of a transport's."""
_PACES = b"bbr"
_WITHIN_A_HOST = b"reno"
_NAME_BYTES = 16


def connect(host: str, port: int, timeout_s: float | None = None) -> socket.socket:
    """A blocking socket with that timeout (default: none). Raises OSError."""
    problem = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock: socket.socket | None = None
        try:
            sock = socket.socket(family, kind, protocol)
            sock.settimeout(timeout_s)
            if _is_of_this_host(family, address):
                leave_unpaced(sock)
            sock.connect(address)
        except OSError as error:
            if sock is not None:
                sock.close()
            problem = error
        else:
            return sock
    raise problem


def listen(host: str, port: int, backlog: int) -> socket.socket:
    """What comes is to be settled. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.create_server((host, port), family=family, backlog=backlog)
    leave_unpaced(sock)
    return sock


def settle(sock: Socket, between_hosts: str = "") -> None:
    """A connection to a socket that was left unpaced is there: from another host it gets the congestion control that is
    to be used `between_hosts` (default: the system's choice)."""
    with suppress(OSError):  # it is gone, which whoever uses it will notice
        if sock.getsockname()[0] == sock.getpeername()[0]:
            return
        if between_hosts:
            _choose(sock, between_hosts.encode())
        elif _chosen(sock) == _WITHIN_A_HOST:
            with socket.socket(sock.family, socket.SOCK_STREAM) as plain:
                _choose(sock, _chosen(plain))


def check_congestion_control(name: str) -> None:
    """Raises ConfigError for one that this process cannot have."""
    try:
        with socket.socket() as sock:
            _choose(sock, name.encode())
    except OSError as error:
        raise ConfigError(
            f"congestion_control {name!r} cannot be had ({error.strerror}): sysctl "
            "net.ipv4.tcp_allowed_congestion_control names those that can"
        ) from error


def _is_of_this_host(family: int, address: object) -> bool:
    """Whether packets there would come from there. Nothing is sent."""
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(address)  # type: ignore[arg-type]  # as getaddrinfo gives it
        return bool(probe.getsockname()[0] == probe.getpeername()[0])
    return False


def leave_unpaced(sock: Socket) -> None:
    """Before it is connected, or before anybody connects to it."""
    with suppress(OSError):  # this kernel does not have it
        if _chosen(sock).startswith(_PACES):
            _choose(sock, _WITHIN_A_HOST)


def _chosen(sock: Socket) -> bytes:
    name: bytes = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _NAME_BYTES)
    return name.rstrip(b"\0")


def _choose(sock: Socket, name: bytes) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name)


def tune(sock: socket.socket) -> None:
    """What both ends of a data connection want: no delay for small frames, no waiting for ever on a dead peer."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)
    # What is queued in the kernel cannot be overtaken by a layer that is needed sooner.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 256 << 10)
