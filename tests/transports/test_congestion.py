"""Whose congestion control a data connection has: ours within a host, the system's between hosts."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from objectcache.client.endpoint import Endpoint
from objectcache.transports.sockets import not_paced_on_this_host, tune


def control_of(sock: socket.socket) -> str:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode()


@pytest.fixture
def another() -> str:
    """One that is not ours."""
    allowed = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control").read_text().split()
    others = [name for name in allowed if name != "reno"]
    if not others:
        pytest.skip("this kernel allows no congestion control but reno")
    return others[0]


@contextmanager
def connected(source: str, another: str) -> Iterator[socket.socket]:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname(), source_address=(source, 0)) as sock,
    ):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, another.encode())
        yield sock


@pytest.mark.parametrize("prepare", [tune, not_paced_on_this_host])
def test_within_a_host_nothing_is_paced(prepare: Callable[[socket.socket], None], another: str) -> None:
    with connected("127.0.0.1", another) as sock:
        prepare(sock)
        assert control_of(sock) == "reno"


def test_between_addresses_the_system_decides(another: str) -> None:
    with connected("127.0.0.2", another) as sock:
        tune(sock)
        assert control_of(sock) == another


def test_other_sockets_are_left_alone(another: str) -> None:
    left, right = socket.socketpair()
    with left, right:
        not_paced_on_this_host(left)
    with connected("127.0.0.1", another) as sock:
        sock.close()
        not_paced_on_this_host(sock)


def test_a_client_stores_without_being_paced() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        connection = Endpoint(*server.getsockname()).connect(5.0)
        assert control_of(connection.sock) == "reno"
        connection.close()
