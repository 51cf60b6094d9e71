"""The proxy that makes a store seem far: each request waits once, bytes pass unchanged, requests do not queue."""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from objectcache.bench.stores.delaying import DelayingProxy

DELAY_S = 0.05
REQUESTS = 100
BODY = random.Random(1).randbytes(5 << 20)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 2 * REQUESTS


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    received: dict[str, bytes] = {}  # noqa: RUF012 - of all requests

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def do_PUT(self) -> None:
        self.received[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def proxy() -> Iterator[DelayingProxy]:
    with _Server(("127.0.0.1", 0), _Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with DelayingProxy("127.0.0.1", server.server_port, DELAY_S) as proxy:
            yield proxy
        server.shutdown()


def get(connection: http.client.HTTPConnection) -> float:
    start_s = time.perf_counter()
    connection.request("GET", "/x")
    assert connection.getresponse().read() == BODY
    return time.perf_counter() - start_s


def test_every_request_of_a_connection_waits_and_is_counted(proxy: DelayingProxy) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port)
    times_s = [get(connection) for _ in range(3)]
    connection.close()
    assert min(times_s) >= DELAY_S
    assert proxy.count_requests() == 3


def test_what_is_sent_arrives_and_waits_once(proxy: DelayingProxy) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port)
    connection.request("PUT", "/sent", BODY)
    assert connection.getresponse().read() == b""
    connection.close()
    assert _Handler.received["/sent"] == BODY
    assert proxy.count_requests() == 1


def test_requests_do_not_queue(proxy: DelayingProxy) -> None:
    connections = [http.client.HTTPConnection("127.0.0.1", proxy.port) for _ in range(REQUESTS)]

    def head(connection: http.client.HTTPConnection) -> None:
        connection.request("PUT", "/small", b"")
        connection.getresponse().read()
        connection.close()

    start_s = time.perf_counter()
    with ThreadPoolExecutor(REQUESTS) as pool:
        list(pool.map(head, connections))
    assert time.perf_counter() - start_s < REQUESTS * DELAY_S * 0.8  # five seconds, one after the other
    assert proxy.count_requests() == REQUESTS


def test_a_stalled_proxy_answers_when_it_is_told_to(proxy: DelayingProxy) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=30)
    get(connection)
    proxy.stall(True)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(get, connection)
        time.sleep(4 * DELAY_S)
        assert not asked.done()
        proxy.stall(False)
        assert asked.result() > 4 * DELAY_S
    get(connection)
    connection.close()
    assert proxy.count_requests() == 3
