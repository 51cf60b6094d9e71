"""Uploads that are wrong, over raw HTTP: each is refused, and nothing of it is left or can be committed."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from objectcache.keys import KEY_BYTES, KeyChain, Namespace
from objectcache.messages import CommitRequest, StoreRequest
from objectcache.names import segment_name
from objectcache.segment import SegmentHeader
from objectcache.testing.synthetic import flat_layout, new_namespace, prompt, retrieve_and_check, store_parts
from tests.gateway.process import BUCKET, PATIENCE_S, Answer, GatewayProcess, eventually
from tests.gateway.raw import ask, segment_of, store_header, store_request, stored_segments
from tests.gateway.test_bad_input import refused

LAYOUT = flat_layout(4, 64 << 10)
CHUNKS = 8
TOKENS = CHUNKS * LAYOUT.key_tokens


@dataclass
class Upload:
    """One that would be right."""

    namespace: Namespace
    chain: KeyChain
    header: SegmentHeader
    body: bytes

    @property
    def request(self) -> StoreRequest:
        return store_request(self.header)


def name_of(writer: str = "") -> str:
    return segment_name(writer or f"t-{secrets.token_hex(8)}", 1)


def put(gateway: GatewayProcess, request: StoreRequest, body: bytes, *, expect: bool = False) -> Answer:
    """The answer to an upload, with or without waiting for 100-continue."""
    connection = gateway.connect()
    connection.putrequest("PUT", f"/{BUCKET}?kv-store")
    for name, value in store_header(request).items():
        connection.putheader(name, value)
    connection.putheader("Content-Length", str(len(body)))
    if expect:
        connection.putheader("Expect", "100-continue")
    connection.endheaders()
    try:
        if not expect or connection.sock.recv(12, socket.MSG_PEEK).startswith(b"HTTP/1.1 100"):
            connection.send(body)
    except OSError:
        pass  # refused before all of it was sent
    try:
        return Answer.read(connection.getresponse())
    finally:
        connection.close()


@pytest.fixture
def committed(gateway: GatewayProcess) -> None:
    """The gateway has written a record, under its own name."""
    namespace = new_namespace(LAYOUT)
    with gateway.open() as cache:
        store_parts(cache, namespace, prompt(namespace, 1))


@pytest.fixture
def upload(gateway: GatewayProcess) -> Iterator[Upload]:
    """Whatever a test does with it: afterwards nothing of it is left, and the right one is taken."""
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, CHUNKS)
    header, body = segment_of(namespace, chain, name_of())
    assert ask(gateway, "kv-namespace", namespace.to_json(), method="PUT").status == 204
    segments = stored_segments(gateway)
    yield Upload(namespace, chain, header, body)
    eventually(lambda: not gateway.temporaries, "no temporaries are left")
    assert stored_segments(gateway) == segments
    refused(ask(gateway, "kv-commit", CommitRequest((header.name,)).encode()), 404, "NoSuchUpload")
    with gateway.open() as cache:
        assert not cache.match(namespace, chain).tokens
        store_parts(cache, namespace, chain)
        assert retrieve_and_check(cache, namespace, chain).tokens == TOKENS
    assert "Traceback" not in gateway.log


def test_the_right_one_is_taken_and_committed_twice(gateway: GatewayProcess) -> None:
    """So that what follows is refused for what is wrong with it."""
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, CHUNKS)
    header, body = segment_of(namespace, chain, name_of())
    assert ask(gateway, "kv-namespace", namespace.to_json(), method="PUT").status == 204
    assert put(gateway, store_request(header), body).status == 201
    with gateway.open() as cache:
        assert not cache.match(namespace, chain).tokens
        for _ in range(2):
            assert ask(gateway, "kv-commit", CommitRequest((header.name,)).encode()).status == 204
            assert retrieve_and_check(cache, namespace, chain).tokens == TOKENS
    again = put(gateway, store_request(header), body)
    assert (again.status, again.headers.get("x-kv-covered")) == (200, "true")


@pytest.mark.parametrize("headers", [{}, {"x-kv-store": "no base64!"}, {"x-kv-store": "ÿ"}, {"x-kv-store": "wQ=="}])
def test_headers_that_say_nothing(gateway: GatewayProcess, upload: Upload, headers: dict[str, str]) -> None:
    refused(ask(gateway, "kv-store", upload.body, method="PUT", headers=headers), 400, "InvalidRequest")


@pytest.mark.parametrize("expect", [False, True], ids=["at once", "100-continue"])
@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"first": 3, "stop": 3}, 400, "InvalidRequest"),
        ({"first": 3, "stop": 2}, 400, "InvalidRequest"),
        ({"segment": ""}, 400, "InvalidObjectName"),
        ({"segment": "mine"}, 400, "InvalidObjectName"),
        ({"segment": "../../escape"}, 400, "InvalidObjectName"),
        ({"segment": ".kv/seg/w/../../log/000/000"}, 400, "InvalidObjectName"),
        ({"segment": ".kv/log/w/000/000/000/001"}, 400, "InvalidObjectName"),
        ({"segment": ".kv/seg/UPPER/000/000/000/001"}, 400, "InvalidObjectName"),
        ({"segment": "s" * 1025}, 400, "InvalidRequest"),
        ({"namespace": bytes(KEY_BYTES)}, 404, "NoSuchNamespace"),
        ({"group": 1}, 400, "InvalidLayout"),
        ({"shard": 1}, 400, "InvalidLayout"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_requests_that_are_wrong(
    gateway: GatewayProcess, upload: Upload, change: dict[str, Any], status: int, code: str, expect: bool
) -> None:
    refused(put(gateway, replace(upload.request, **change), upload.body, expect=expect), status, code)


def test_a_name_of_the_gateways_own(gateway: GatewayProcess, committed: None, upload: Upload) -> None:
    writers = [path.name for path in gateway.objects.glob("*kv/log/*")]
    assert writers
    for writer in writers:
        header, body = segment_of(upload.namespace, upload.chain, name_of(writer))
        refused(put(gateway, store_request(header), body), 400, "InvalidRequest")


@pytest.mark.parametrize("expect", [False, True], ids=["at once", "100-continue"])
@pytest.mark.parametrize("where", ["magic", "header", "row", "first slice", "last slice", "footer"])
def test_a_byte_that_is_another(gateway: GatewayProcess, upload: Upload, where: str, expect: bool) -> None:
    geometry = upload.header.geometry
    offsets = {
        "magic": 0,
        "header": 40,
        "row": geometry.row_offset(1),
        "first slice": geometry.slice_offset(0, 0),
        "last slice": geometry.slice_offset(3, CHUNKS) - 1,
        "footer": len(upload.body) - 1,
    }
    body = bytearray(upload.body)
    body[offsets[where]] ^= 1
    answer = put(gateway, upload.request, bytes(body), expect=expect)
    refused(answer, 400, "BadDigest")
    if expect:
        assert answer.headers["connection"] == "close", "what follows on it may be the rest of the body"


@pytest.mark.parametrize("other", ["name", "namespace"])
def test_a_segment_that_is_not_the_announced_one(gateway: GatewayProcess, upload: Upload, other: str) -> None:
    namespace, name = upload.namespace, upload.header.name
    if other == "name":
        name = name[:-1] + "2"  # as long as the right one
    else:
        namespace = replace(namespace, epoch=1)
    _, body = segment_of(namespace, upload.chain, name)
    assert f"another {other} " in refused(put(gateway, upload.request, body), 400, "InvalidRequest")


@pytest.mark.parametrize("expect", [False, True], ids=["at once", "100-continue"])
@pytest.mark.parametrize("change", [-(100 << 10), -1, 1, 100 << 10])
def test_a_length_that_is_not_the_segments(gateway: GatewayProcess, upload: Upload, change: int, expect: bool) -> None:
    body = upload.body + bytes(change) if change > 0 else upload.body[:change]
    message = refused(put(gateway, upload.request, body, expect=expect), 400, "InvalidRequest")
    assert str(len(body)) in message
    assert str(len(upload.body)) in message


def test_a_body_without_a_length(gateway: GatewayProcess, upload: Upload) -> None:
    connection = gateway.connect()
    connection.request("PUT", f"/{BUCKET}?kv-store", iter([upload.body]), store_header(upload.request))
    refused(Answer.read(connection.getresponse()), 411, "MissingContentLength")
    connection.close()


@pytest.mark.parametrize("expect", [False, True], ids=["at once", "100-continue"])
@pytest.mark.parametrize("sent", [0, 5, 2000, 200 << 10, -1])
def test_a_body_that_is_cut_off(gateway: GatewayProcess, upload: Upload, sent: int, expect: bool) -> None:
    """The connection ends, whether it is answered or not."""
    failed = gateway.metric("objectcache_uploads_total", outcome="failed")
    lines = [f"PUT /{BUCKET}?kv-store HTTP/1.1", "Host: gateway", f"Content-Length: {len(upload.body)}"]
    lines += [f"{name}: {value}" for name, value in store_header(upload.request).items()]
    lines += ["Expect: 100-continue"] if expect else []
    with socket.create_connection(("127.0.0.1", gateway.port), PATIENCE_S) as sock:
        sock.sendall("\r\n".join([*lines, "", ""]).encode())
        if expect:
            assert sock.recv(64) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(upload.body[:sent])
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while data := sock.recv(65536):
            answer += data
    assert not answer.startswith(b"HTTP/1.1 2")
    eventually(lambda: gateway.metric("objectcache_uploads_total", outcome="failed") == failed + 1, "it has failed")
