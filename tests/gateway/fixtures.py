"""Fixtures that the folders with gateways in their tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.process import GatewayProcess

ATTACH_S = 3.0
"""What the shared gateway is told: some tests wait for it."""

StartGateway = Callable[..., GatewayProcess]


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """One gateway for many tests, which leave it running and may restart it. Namespaces keep them apart."""
    running = GatewayProcess(tmp_path_factory.mktemp("gateway"), settings={"attach_s": ATTACH_S}).start()
    yield running
    assert running.stop() == 0


@pytest.fixture
def own_gateway(tmp_path: Path) -> Iterator[StartGateway]:
    """`own_gateway(limit_bytes=…)` starts one with these settings, for tests that break it."""
    with _starting(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def module_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartGateway]:
    """As `own_gateway`, but they run until the module's last test: each start takes a second of computing."""
    with _starting(tmp_path_factory.mktemp("gateways")) as start:
        yield start


@contextmanager
def _starting(folder: Path) -> Iterator[StartGateway]:
    started: list[GatewayProcess] = []

    def start(**settings: Any) -> GatewayProcess:
        data = folder / f"gateway-{len(started)}"
        started.append(GatewayProcess(data, settings=settings))
        return started[-1].start()

    yield start
    for running in started:
        running.kill()
