"""Which congestion control the connections of a gateway have: within its host, and from others."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from objectcache.config import GatewayConfig
from objectcache.errors import ConfigError
from objectcache.gateway.app import Gateway
from objectcache.s3 import Grant
from objectcache.transports import connecting
from tests.transports.test_congestion import another, control_of, systems

__all__ = ["another"]


@asynccontextmanager
async def running(data: Path, congestion_control: str = "") -> AsyncIterator[Gateway]:
    gateway = Gateway(
        GatewayConfig(data=data, port=0, workers=1, anonymous=Grant.ADMIN, congestion_control=congestion_control)
    )
    await gateway.start()
    try:
        yield gateway
    finally:
        await gateway.close()


async def accepted(gateway: Gateway, source: str) -> str:
    """What the gateway's end of an HTTP connection from that address has."""
    assert gateway._runner is not None
    assert gateway._runner.server is not None
    known = set(gateway._runner.server.connections)
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port, local_addr=(source, 0))
    while not (new := set(gateway._runner.server.connections) - known):
        await asyncio.sleep(0.001)
    (handler,) = new
    assert handler.transport is not None
    found = control_of(handler.transport.get_extra_info("socket"))
    writer.close()
    return found


@pytest.mark.parametrize("between_hosts", [False, True], ids=["the system's", "configured"])
def test_connections_are_settled_by_where_they_come_from(tmp_path: Path, another: str, between_hosts: bool) -> None:
    wanted = connecting._WITHIN_A_HOST.decode() if between_hosts else systems()

    async def check() -> None:
        async with running(tmp_path, wanted if between_hosts else "") as gateway:
            assert gateway._listener is not None
            assert gateway._http is not None
            assert control_of(gateway._listener._socket) == another
            assert [control_of(sock) for sock in gateway._http.sockets] == [another]
            assert await accepted(gateway, "127.0.0.1") == another
            assert await accepted(gateway, "127.0.0.2") == wanted

    asyncio.run(check())


def test_what_the_kernel_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'nonesuch' cannot be had .*tcp_allowed_congestion_control"):
        GatewayConfig(data=tmp_path, congestion_control="nonesuch")


def test_a_socket_that_was_never_unpaced_gets_what_is_configured() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as near:
        near.bind(("127.0.0.2", 0))
        near.connect(server.getsockname())
        far, _ = server.accept()
        with far:
            connecting.settle(far, "reno")
            assert control_of(far) == "reno"
