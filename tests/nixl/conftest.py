"""Gateways whose clients have NIXL. Where it is missing tests are skipped, or fail with OBJECTCACHE_REQUIRE_NIXL=1."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from objectcache.transports.nixl import INSTALL, is_installed
from tests.gateway.fixtures import ATTACH_S, own_gateway
from tests.gateway.process import GatewayProcess

__all__ = ["own_gateway"]

WAYS = {"shared memory": "sm,tcp,self", "tcp": "tcp,self"}
"""What UCX may use (UCX_TLS). Between processes it wants TCP too: its shared memory does not notice deaths."""


@pytest.fixture(autouse=True)
def _installed() -> None:
    if not is_installed():
        if os.environ.get("OBJECTCACHE_REQUIRE_NIXL"):
            pytest.fail(INSTALL)
        pytest.skip(INSTALL)


@pytest.fixture(scope="session", autouse=True, params=list(WAYS.values()), ids=list(WAYS))
def ucx(request: pytest.FixtureRequest) -> Iterator[str]:
    """For this process, and for the gateways that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UCX_TLS", request.param)
        patch.setenv("UCX_NET_DEVICES", "lo")  # else it listens on every interface
        yield request.param


@pytest.fixture(scope="session")
def gateway(ucx: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """One for all tests of a way, which leave it running and may restart it."""
    running = GatewayProcess(tmp_path_factory.mktemp("gateway"), settings={"attach_s": ATTACH_S}).start()
    yield running
    assert running.stop() == 0
