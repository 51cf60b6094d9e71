"""Whose congestion control a data connection has: the plainest within a host, the system's between hosts."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from objectcache.client.endpoint import Endpoint
from objectcache.transports import connecting
from objectcache.transports.connecting import connect, listen, settle


def control_of(sock: Any) -> str:
    name: bytes = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    return name.rstrip(b"\0").decode()


def port_of(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


def systems() -> str:
    with socket.socket() as plain:
        return control_of(plain)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with listen("127.0.0.1", 0, 8) as sock:
        yield sock


@pytest.fixture
def another(monkeypatch: pytest.MonkeyPatch) -> str:
    """What is chosen within a host, and not by the system."""
    for name in ("reno", "cubic", "bbr"):
        with socket.socket() as plain:
            try:
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())
            except OSError:
                continue
        if name != systems():
            monkeypatch.setattr(connecting, "_PACES", systems().encode())
            monkeypatch.setattr(connecting, "_WITHIN_A_HOST", name.encode())
            return name
    pytest.skip("this kernel allows one congestion control only")


def test_within_a_host_it_is_ours_from_the_beginning(another: str) -> None:
    with listen("127.0.0.1", 0, 8) as listener, connect("127.0.0.1", port_of(listener), 5.0) as near:
        far, _ = listener.accept()
        with far:
            assert control_of(far) == another, "before anything could be paced"
            settle(far)
            assert control_of(near) == control_of(far) == another


def test_between_hosts_it_is_the_systems(another: str) -> None:
    with listen("127.0.0.1", 0, 8) as listener, socket.socket() as near:
        near.bind(("127.0.0.2", 0))
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, another.encode())
        near.connect(listener.getsockname())
        far, _ = listener.accept()
        with far:
            assert control_of(far) == another
            settle(far)
            assert control_of(far) == systems()


def test_what_does_not_pace_is_left_alone(another: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "_PACES", b"another")
    with listen("127.0.0.1", 0, 8) as listener, connect("127.0.0.1", port_of(listener), 5.0) as near:
        assert control_of(near) == control_of(listener) == systems()


def test_an_address_of_a_kind_that_is_not_there_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, listener: socket.socket
) -> None:
    there = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port_of(listener)))
    absent = (socket.AF_PACKET, socket.SOCK_STREAM, 6, "", ("::1", port_of(listener)))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *asked, **how: [absent, there])
    with connect("localhost", port_of(listener), 5.0) as near:
        assert near.getpeername() == listener.getsockname()


def test_a_connection_that_is_gone_is_no_news(listener: socket.socket) -> None:
    with connect("127.0.0.1", port_of(listener), 5.0):
        far, _ = listener.accept()
    far.close()
    settle(far)


def test_a_kernel_without_it(another: str, monkeypatch: pytest.MonkeyPatch, listener: socket.socket) -> None:
    monkeypatch.setattr(connecting, "_WITHIN_A_HOST", b"no such thing")
    with connect("127.0.0.1", port_of(listener), 5.0) as near:
        assert near.gettimeout() == 5.0


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
    with pytest.raises(ConnectionRefusedError):
        connect(host, port, 5.0)


def test_a_client_stores_without_being_paced(another: str) -> None:
    with listen("127.0.0.1", 0, 8) as listener:
        connection = Endpoint(*listener.getsockname()).connect(5.0)
        assert control_of(connection.sock) == another
        connection.close()
