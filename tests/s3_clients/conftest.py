"""Gateways that ask for signatures, one plain and one with TLS, and the clients that are installed.

A client that is not installed is a skip that says so. Where OBJECTCACHE_REQUIRE_CLIENTS is set, it is a failure.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from objectcache.s3 import Credentials
from tests.gateway.process import BUCKET, GatewayProcess
from tests.s3_clients import boto
from tests.s3_clients.keys import OWNER, write_keys
from tests.s3_clients.tools import AwsCli, Rclone, S3cmd, Tool

DOMAIN = "s3.localhost"
TOOLS: tuple[type[Tool], ...] = (boto.Boto3, AwsCli, S3cmd, Rclone)

NewTool = Callable[[Credentials], Tool]


def require(missing: str) -> None:
    """Skips, or fails where all clients must be there."""
    if missing and os.environ.get("OBJECTCACHE_REQUIRE_CLIENTS"):
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("gateway")
    settings = {"access_keys": str(write_keys(folder)), "anonymous": "none", "domains": [DOMAIN]}
    running = GatewayProcess(folder, settings=settings).start()
    yield running
    assert running.stop() == 0
    assert "Traceback" not in running.log


@pytest.fixture(scope="session")
def endpoint(gateway: GatewayProcess) -> str:
    return f"http://127.0.0.1:{gateway.port}"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed one for 127.0.0.1, and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=gateway", "-addext", "subjectAltName=IP:127.0.0.1"]
    try:
        subprocess.run([*command, "-out", cert, "-keyout", key], check=True, capture_output=True, timeout=60)
    except FileNotFoundError:
        require("openssl is not installed: apt-get install openssl")
    return cert, key


@pytest.fixture(scope="session")
def tls_gateway(tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("tls-gateway")
    cert, key = certificate
    settings = {"access_keys": str(write_keys(folder)), "anonymous": "none", "tls_cert": str(cert), "tls_key": str(key)}
    running = GatewayProcess(folder, settings=settings).start()
    yield running
    assert running.stop() == 0
    assert "Traceback" not in running.log


@pytest.fixture
def s3(endpoint: str) -> Any:
    """boto3 with the key that may do everything."""
    require(boto.MISSING)
    return boto.client(endpoint, OWNER)


@pytest.fixture(scope="session")
def tls_endpoint(tls_gateway: GatewayProcess) -> str:
    return f"https://127.0.0.1:{tls_gateway.port}"


@pytest.fixture(params=["http", "https"])
def either(request: pytest.FixtureRequest) -> Any:
    """boto3 at the plain gateway, and at the one with TLS."""
    require(boto.MISSING)
    if request.param == "http":
        return boto.client(request.getfixturevalue("endpoint"), OWNER)
    cert: Path = request.getfixturevalue("certificate")[0]
    return boto.client(request.getfixturevalue("tls_endpoint"), OWNER, verify=cert)


@pytest.fixture(params=TOOLS, ids=lambda tool: tool.name)
def new_tool(request: pytest.FixtureRequest, endpoint: str, tmp_path: Path) -> NewTool:
    """`new_tool(keys)`: each client in turn."""
    kind: type[Tool] = request.param
    require(kind.missing())

    def new(keys: Credentials) -> Tool:
        home = tmp_path / f"home-{keys.access_key}"
        home.mkdir()
        return kind(endpoint, keys, BUCKET, home)

    return new


@pytest.fixture
def tool(new_tool: NewTool) -> Tool:
    """Each client in turn, with the key that may do everything."""
    return new_tool(OWNER)
