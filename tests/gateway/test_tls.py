"""A gateway over TLS: the same cache and the same objects, and clients that vanish."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from objectcache.cache import Match
from objectcache.client import GatewayCache
from objectcache.errors import ConfigError, DataConnectionsRefusedError, GatewayUnavailableError
from objectcache.testing.synthetic import check_delivery, flat_layout, new_namespace, prompt, store_parts
from tests.gateway.fixtures import StartGateway
from tests.gateway.process import BUCKET, PATIENCE_S, GatewayProcess, eventually, resources_of

LAYOUT = flat_layout(4, 64 << 10)
CHUNKS = 8
LARGE = 24 << 20


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl program, which makes the certificate, is missing")
    directory = tmp_path_factory.mktemp("tls")
    made = {"tls_cert": str(directory / "cert.pem"), "tls_key": str(directory / "key.pem")}
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    command += ["-out", made["tls_cert"], "-keyout", made["tls_key"]]
    subprocess.run(command, check=True, capture_output=True)
    return made


@pytest.fixture(scope="module")
def secure(certificate: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    settings = {**certificate, "shared_memory": False}
    running = GatewayProcess(tmp_path_factory.mktemp("secure"), settings=settings).start()
    yield running
    running.kill()


def stored(gateway: GatewayProcess, **options: Any) -> Match:
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, CHUNKS)
    with gateway.open(**options) as cache:
        store_parts(cache, namespace, chain)
        found = cache.match(namespace, chain)
        assert found.tokens == CHUNKS * 16
        for _ in range(2):  # also on a connection that was used before
            with cache.retrieve(found) as retrieval:
                check_delivery(retrieval, found)
        cache.release(found)
    return found


@pytest.mark.parametrize("target", ["auto", "http"])
def test_kv_comes_in_responses(secure: GatewayProcess, target: str) -> None:
    stored(secure, target=target)
    assert secure.metric("objectcache_deliveries_total", target="tcp") == 0
    assert secure.metric("objectcache_deliveries_total", target="http", outcome="sent") > 0


def test_data_connections_are_refused(secure: GatewayProcess) -> None:
    with pytest.raises(DataConnectionsRefusedError):
        stored(secure, target="tcp")


@pytest.mark.parametrize("target", ["auto", "tcp"])
def test_data_connections_where_the_network_is_trusted(
    own_gateway: StartGateway, certificate: dict[str, str], target: str
) -> None:
    gateway = own_gateway(**certificate, plain_data=True, shared_memory=False)
    stored(gateway, target=target)
    assert gateway.metric("objectcache_deliveries_total", target="tcp", outcome="sent") > 0


def test_memory_is_shared_beside_tls_since_no_network_sees_it(
    own_gateway: StartGateway, certificate: dict[str, str]
) -> None:
    gateway = own_gateway(**certificate)
    stored(gateway, target="auto")
    assert gateway.metric("objectcache_deliveries_total", target="shm", outcome="sent") > 0
    with pytest.raises(DataConnectionsRefusedError):
        stored(gateway, target="tcp")


def test_a_certificate_that_nobody_vouches_for(secure: GatewayProcess, tmp_path: Path) -> None:
    namespace = new_namespace(LAYOUT)
    with secure.open(ca_file="") as cache, pytest.raises(GatewayUnavailableError):
        cache.match(namespace, prompt(namespace, 1))
    (tmp_path / "none.pem").write_text("none")
    with pytest.raises(ConfigError):
        secure.open(ca_file=str(tmp_path / "none.pem"))
    with GatewayCache("127.0.0.1", secure.port, BUCKET) as plain, pytest.raises(GatewayUnavailableError):
        plain.match(namespace, prompt(namespace, 1))


def test_a_certificate_that_cannot_be_used(tmp_path: Path, certificate: dict[str, str]) -> None:
    command = [sys.executable, "-m", "objectcache", "serve", "--data", str(tmp_path / "data"), "--port", "0"]
    command += ["--anonymous", "admin", "--tls-cert", certificate["tls_cert"], "--tls-key", certificate["tls_cert"]]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert ended.returncode == 1
    assert "TLS cannot use" in ended.stderr


@pytest.mark.parametrize("size", [0, 10, LARGE])
@pytest.mark.parametrize("expect", [False, True], ids=["at once", "100-continue"])
def test_objects(secure: GatewayProcess, size: int, expect: bool) -> None:
    body, path = os.urandom(size), f"/{BUCKET}/{size}-{expect}"
    connection = secure.connect()
    connection.putrequest("PUT", path)
    connection.putheader("Content-Length", str(size))
    if expect:
        connection.putheader("Expect", "100-continue")
    connection.endheaders()
    if expect and size:
        assert connection.sock.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.send(body)
    assert connection.getresponse().read() == b""
    sock = connection.sock
    for _ in range(2):
        connection.request("GET", path)
        got = connection.getresponse()
        assert got.read() == body
    assert connection.sock is sock, "the connection did not go on"
    connection.close()
    if size:
        part = secure.ask("GET", path, headers={"Range": f"bytes={size // 2}-"})
        assert (part.status, part.body) == (206, body[size // 2 :])


def test_errors(secure: GatewayProcess) -> None:
    assert secure.ask("GET", f"/{BUCKET}/missing").error["Code"] == "NoSuchKey"
    taken = secure.ask("PUT", f"/{BUCKET}/wrong", bytes(LARGE), {"Content-MD5": f"{'A' * 22}=="})
    assert taken.error["Code"] == "BadDigest"
    assert secure.ask("GET", f"/{BUCKET}/wrong").status == 404


@pytest.mark.parametrize("doing", ["getting", "putting"])
def test_a_client_that_vanishes_leaves_nothing(secure: GatewayProcess, doing: str) -> None:
    path = f"/{BUCKET}/vanishing"
    secure.ask("PUT", path, bytes(LARGE))

    def held() -> list[int]:
        return [count for pid in (secure.pid, *secure.worker_pids) for count in resources_of(pid)]

    secure.ask("GET", "/healthz")
    eventually(lambda: secure.ask("GET", "/healthz").status == 200, "it is there")
    before = held()
    for _ in range(3):
        connection = secure.connect()
        connection.connect()
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        if doing == "getting":
            connection.request("GET", path)
            assert connection.sock.recv(1000)
        else:
            connection.putrequest("PUT", f"{path}-never")
            connection.putheader("Content-Length", str(LARGE))
            connection.endheaders()
            connection.send(bytes(LARGE // 2))
        # Without a word of TLS.
        raw = socket.socket(fileno=connection.sock.detach())
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        raw.close()
    eventually(lambda: all(now <= then + 1 for now, then in zip(held(), before, strict=True)), "all is let go", 10.0)
    assert secure.ask("GET", path).body == bytes(LARGE)
    assert secure.ask("GET", f"{path}-never").status == 404
    eventually(lambda: not secure.temporaries, "no temporary is left", 10.0)
    assert "Traceback" not in secure.log


def test_a_client_that_speaks_no_tls(secure: GatewayProcess) -> None:
    with socket.create_connection(("127.0.0.1", secure.port), PATIENCE_S) as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert not sock.recv(100).startswith(b"HTTP")
    context = ssl.create_default_context(cafile=secure.ca_file)
    with (
        socket.create_connection(("127.0.0.1", secure.port), PATIENCE_S) as sock,
        context.wrap_socket(sock, server_hostname="localhost") as spoken,
    ):
        assert spoken.version() in ("TLSv1.2", "TLSv1.3")


def test_explaining(secure: GatewayProcess, certificate: dict[str, str]) -> None:
    found = stored(secure)
    command = [sys.executable, "-m", "objectcache", "ls", secure.url, "--json"]
    environment = os.environ | {"SSL_CERT_FILE": certificate["tls_cert"]}
    listed = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=PATIENCE_S, check=False)
    assert found.namespace.model in listed.stdout
    unknown = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert unknown.returncode == 1
    assert "certificate" in unknown.stderr.lower()
