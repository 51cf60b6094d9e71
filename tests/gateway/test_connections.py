"""HTTP connections as clients really use them: bodies sent before the go-ahead, closing, pipelining, going on."""

from __future__ import annotations

import http.client
import io
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote, unquote

import pytest

from objectcache.messages import MatchAnswer, MatchRequest
from objectcache.testing.synthetic import flat_layout, new_namespace, prompt, store_parts
from tests.gateway.process import BUCKET, PATIENCE_S, Answer, GatewayProcess
from tests.gateway.raw import descriptor_of

LARGE = 3 << 20  # what data workers write and read


class RawClient:
    """A connection on which a test says every byte."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._file = sock.makefile("rb")

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def put(self, name: str, body: bytes, *headers: str) -> bytes:
        """The head of a PUT."""
        lines = [f"PUT /{BUCKET}/{name} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
        return "\r\n".join([*lines, "", ""]).encode()

    def get(self, name: str, *headers: str, version: str = "1.1") -> bytes:
        return "\r\n".join([f"GET /{BUCKET}/{name} HTTP/{version}", "Host: x", *headers, "", ""]).encode()

    def answer(self) -> Answer:
        """The next response; 1xx are passed over."""
        response = http.client.HTTPResponse(_Reader(self._file))  # type: ignore[arg-type]
        response.begin()
        return Answer.read(response)

    def at_end(self) -> bool:
        """Whether the other side hangs up, rather than wait for another request."""
        self.sock.settimeout(5.0)
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False


class _Reader:
    """What HTTPResponse takes for a socket."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file

    def makefile(self, mode: str) -> _Unclosed:
        return _Unclosed(self._file)


class _Unclosed:
    """The file of a connection that goes on after a response."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self.read, self.readline, self.readinto, self.peek = file.read, file.readline, file.readinto, file.peek
        self.read1, self.closed = file.read1, False

    def flush(self) -> None: ...

    def close(self) -> None: ...


@contextmanager
def connected(gateway: GatewayProcess) -> Iterator[RawClient]:
    with socket.create_connection(("127.0.0.1", gateway.port), PATIENCE_S) as sock:
        yield RawClient(sock)


def stored(gateway: GatewayProcess, name: str) -> bytes | None:
    answer = gateway.ask("GET", f"/{BUCKET}/{name}")
    return answer.body if answer.status == 200 else None


@pytest.mark.parametrize("size", [0, 10, 70_000, LARGE])
def test_a_body_that_does_not_wait_for_its_go_ahead(gateway: GatewayProcess, size: int) -> None:
    """Clients may send after a while of silence, and some send at once."""
    body = os.urandom(size)
    with connected(gateway) as client:
        client.send(client.put(f"eager-{size}", body, "Expect: 100-continue") + body)
        assert client.answer().status == 200
    assert stored(gateway, f"eager-{size}") == body


def test_a_body_of_which_a_part_does_not_wait(gateway: GatewayProcess) -> None:
    body = os.urandom(LARGE)
    with connected(gateway) as client:
        client.send(client.put("half-eager", body, "Expect: 100-continue") + body[:100])
        client.send(body[100:])
        assert client.answer().status == 200
    assert stored(gateway, "half-eager") == body


@pytest.mark.parametrize("expect", [[], ["Expect: 100-continue"]], ids=["at once", "expecting"])
@pytest.mark.parametrize("size", [10, LARGE])
def test_a_refused_body_leaves_a_connection_that_goes_on_or_is_closed(
    gateway: GatewayProcess, expect: list[str], size: int
) -> None:
    body = os.urandom(size)
    assert gateway.ask("PUT", f"/{BUCKET}/taken", b"taken").status == 200
    with connected(gateway) as client:
        client.send(client.put("taken", body, f"Content-MD5: {'A' * 22}==", *expect))
        if expect:
            assert client.sock.recv(25, socket.MSG_PEEK | socket.MSG_WAITALL).startswith(b"HTTP/1.1 100 ")
        client.send(body)
        refused = client.answer()
        assert (refused.status, refused.error["Code"]) == (400, "BadDigest")
        if refused.headers.get("connection", "").lower() == "close":
            assert client.at_end()
        else:
            client.send(client.get("taken"))
            assert client.answer().body == b"taken"
    assert stored(gateway, "taken") == b"taken"


@pytest.mark.parametrize("name", ["small", "large"])
@pytest.mark.parametrize("way", ["asked to close", "old"])
def test_a_connection_ends_after_its_answer_when_the_client_says_so(
    gateway: GatewayProcess, name: str, way: str
) -> None:
    body = os.urandom(LARGE if name == "large" else 100)
    gateway.ask("PUT", f"/{BUCKET}/{name}", body)
    with connected(gateway) as client:
        old = way == "old"
        client.send(client.get(name, *([] if old else ["Connection: close"]), version="1.0" if old else "1.1"))
        assert client.answer().body == body
        assert client.at_end()


def test_requests_that_are_sent_together_are_answered_in_order(gateway: GatewayProcess) -> None:
    bodies = {"first": os.urandom(LARGE), "second": b"small", "third": os.urandom(LARGE)}
    with connected(gateway) as client:
        puts = [client.put(f"piped-{name}", body) + body for name, body in bodies.items()]
        gets = [client.get(f"piped-{name}") for name in bodies]
        client.send(b"".join(puts))
        assert [client.answer().status for _ in puts] == [200] * 3
        client.send(b"".join(gets))
        assert [client.answer().body for _ in gets] == list(bodies.values())


def test_a_connection_goes_on_after_a_delivery_in_its_response(gateway: GatewayProcess) -> None:
    namespace = new_namespace(flat_layout(3, 1 << 18))
    chain = prompt(namespace, 4)
    with gateway.open() as cache:
        store_parts(cache, namespace, chain)
        match = cache.match(namespace, chain)
    connection = gateway.connect()
    for _ in range(3):
        connection.request("POST", f"/{BUCKET}?kv-retrieve", body=descriptor_of(match, lease=b"").encode())
        delivered = Answer.read(connection.getresponse())
        assert delivered.status == 200
        assert len(delivered.body) > match.payload_bytes
        sock = connection.sock
        connection.request("POST", f"/{BUCKET}?kv-match", body=MatchRequest(namespace.digest, chain).encode())
        again = MatchAnswer.decode(Answer.read(connection.getresponse()).body)
        assert again.tokens == match.tokens
        assert connection.sock is sock
    connection.close()


def test_a_name_that_is_no_text_is_refused(gateway: GatewayProcess) -> None:
    """Two such names would become the same, if what cannot be decoded were replaced."""
    for raw in ("%FF", "a%C3", "%ED%A0%80"):
        put = gateway.ask("PUT", f"/{BUCKET}/{raw}", b"x")
        assert (put.status, put.error["Code"]) == (400, "InvalidArgument")
    assert gateway.ask("GET", f"/{BUCKET}/%EF%BF%BD").status == 404


@pytest.mark.parametrize("path", ["a/../b", "./a", "../healthz", "a/%2E%2E/b", "%2e%2e%2fb"])
def test_dots_are_not_resolved(gateway: GatewayProcess, path: str) -> None:
    with connected(gateway) as client:
        client.send(client.put(path, b"x") + b"x")
        assert client.answer().status == 200
    key = unquote(path)
    listed = gateway.ask("GET", f"/{BUCKET}?prefix={quote(key)}").body.decode()
    assert f"<Key>{key}</Key>" in listed
    assert gateway.ask("GET", f"/{BUCKET}/b").status == 404
    with connected(gateway) as client:
        client.send(client.get(path))
        assert client.answer().body == b"x"
