"""Requests that are wrong, over raw HTTP: each is refused with a typed S3 error, and nothing else happens."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest

from objectcache.cache import Match
from objectcache.descriptor import Target, TargetKind
from objectcache.keys import KeyChain, Namespace
from objectcache.messages import MAX_MESSAGE_BYTES, CancelRequest, CommitRequest, MatchRequest
from objectcache.testing.synthetic import flat_layout, new_namespace, prompt, retrieve_and_check, store_parts
from tests.fuzzing import HOSTILE
from tests.gateway.fixtures import StartGateway
from tests.gateway.process import BUCKET, PATIENCE_S, Answer, GatewayProcess, eventually
from tests.gateway.raw import altered, ask, connected, descriptor_of, open_session, stored_segments

LAYERS = 4
LAYOUT = flat_layout(LAYERS, 4096)
CHUNKS = 8
RETRIEVE = f"/{BUCKET}?kv-retrieve"

Stored = tuple[Namespace, KeyChain, Match]


def refused(answer: Answer, status: int, code: str) -> str:
    """It is that S3 error; its message."""
    assert (answer.status, answer.error["Code"]) == (status, code)
    assert answer.error["Message"]
    assert answer.error["RequestId"]
    assert answer.headers["x-amz-request-id"] == answer.error["RequestId"]
    return answer.error["Message"]


@pytest.fixture(scope="module")
def stored(gateway: GatewayProcess) -> Stored:
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, CHUNKS)
    with gateway.open() as cache:
        store_parts(cache, namespace, chain, cuts=(3,))
        return namespace, chain, retrieve_and_check(cache, namespace, chain)


@pytest.fixture(autouse=True)
def nothing_happens(gateway: GatewayProcess, stored: Stored) -> Iterator[None]:
    """Nothing was delivered, nothing is left, and the gateway serves as before."""
    namespace, chain, _ = stored
    eventually(lambda: gateway.metric("objectcache_deliveries_running") == 0, "earlier deliveries are counted")
    before = gateway.metric("objectcache_delivered_bytes_total")
    segments = stored_segments(gateway)
    yield
    eventually(lambda: gateway.metric("objectcache_deliveries_running") == 0, "no delivery runs")
    assert gateway.metric("objectcache_delivered_bytes_total") == before
    eventually(lambda: not gateway.temporaries, "no temporaries are left")
    assert stored_segments(gateway) == segments
    with gateway.open() as cache:
        assert retrieve_and_check(cache, namespace, chain).tokens == CHUNKS * LAYOUT.key_tokens
    assert "Traceback" not in gateway.log


@pytest.fixture(params=["http", "tcp"])
def target(request: pytest.FixtureRequest, gateway: GatewayProcess) -> Iterator[Target]:
    if request.param == "http":
        yield Target(TargetKind.HTTP)
        return
    session = open_session(gateway)
    with connected(session):
        yield Target(TargetKind.TCP, session.session)


@pytest.mark.parametrize(
    ("change", "part", "status", "code"),
    [
        ({"version": 99}, {}, 400, "InvalidDescriptor"),
        ({"order": "chunk"}, {}, 400, "InvalidDescriptor"),
        ({"namespace": bytes(32)}, {}, 404, "NoSuchNamespace"),
        ({}, {"first": -1}, 400, "InvalidDescriptor"),
        ({}, {"first": 5, "stop": 4}, 400, "InvalidDescriptor"),
        ({}, {"first": 4, "stop": 4}, 400, "InvalidDescriptor"),
        ({}, {"stop": 1 << 24}, 400, "InvalidDescriptor"),
        ({}, {"stop": CHUNKS + 1}, 400, "InvalidDescriptor"),
        ({}, {"stop": CHUNKS - 1}, 400, "InvalidDescriptor"),
        ({}, {"slice_bytes": [4096] * 3 + [4097]}, 400, "InvalidDescriptor"),
        ({}, {"layers": [0, 1, 2, 4]}, 400, "InvalidDescriptor"),
        ({}, {"layers": [0, 1], "slice_bytes": [4096] * 2}, 400, "InvalidDescriptor"),
        ({}, {"layers": [0, 1]}, 400, "InvalidDescriptor"),
        ({}, {"chunk_tokens": 32}, 400, "InvalidDescriptor"),
        ({}, {"group": 1}, 400, "InvalidDescriptor"),
        ({}, {"shard": 1}, 400, "InvalidDescriptor"),
        ({}, {"leaf": b"\x5a" * 32}, 404, "NoSuchKey"),
        ({"lease": b"\x5a" * 16}, {}, 410, "LeaseExpired"),
        ({"from_layer": LAYERS}, {}, 400, "InvalidDescriptor"),
        ({"target": {"kind": "tcp", "session": b"\x5a" * 16}}, {}, 404, "NoSuchSession"),
        ({"target": {"kind": "rdma", "session": b""}}, {}, 400, "InvalidDescriptor"),
        ({"parts": []}, {}, 400, "InvalidDescriptor"),
        ({"padding": bytes(1 << 20)}, {}, 400, "InvalidDescriptor"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_descriptors_that_are_wrong(
    gateway: GatewayProcess,
    stored: Stored,
    target: Target,
    change: dict[str, Any],
    part: dict[str, Any],
    status: int,
    code: str,
) -> None:
    body = altered(descriptor_of(stored[2], target=target), change, part)
    refused(ask(gateway, "kv-retrieve", body), status, code)


def test_a_part_that_is_named_twice(gateway: GatewayProcess, stored: Stored) -> None:
    described = descriptor_of(stored[2])
    fields = msgpack.unpackb(described.encode())
    body = msgpack.packb({**fields, "parts": fields["parts"] * 2})
    assert "twice" in refused(ask(gateway, "kv-retrieve", body), 400, "InvalidDescriptor")


def test_a_leaf_of_another_namespace(gateway: GatewayProcess, stored: Stored) -> None:
    other = new_namespace(LAYOUT)
    with gateway.open() as cache:
        assert ask(gateway, "kv-namespace", other.to_json(), method="PUT").status == 204
        assert not cache.match(other, stored[1]).tokens
    body = altered(descriptor_of(stored[2]), {"namespace": other.digest}, {})
    refused(ask(gateway, "kv-retrieve", body), 404, "NoSuchNamespace")


def test_a_lease_that_has_expired(own_gateway: StartGateway) -> None:
    short = own_gateway(lease_ttl_s=0.2)
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, CHUNKS)
    with short.open(target="http") as cache:
        store_parts(cache, namespace, chain)
        match = cache.match(namespace, chain)
    assert match.lease is not None
    body = descriptor_of(match, lease=match.lease.id).encode()
    eventually(lambda: ask(short, "kv-retrieve", body).status == 410, "the lease expires")
    sent = short.metric("objectcache_delivered_bytes_total")
    refused(ask(short, "kv-retrieve", body), 410, "LeaseExpired")
    assert short.metric("objectcache_delivered_bytes_total") == sent
    assert ask(short, "kv-retrieve", descriptor_of(match).encode()).status == 200
    assert "Traceback" not in short.log


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize(
    "resource", ["kv-match", "kv-release", "kv-session", "kv-retrieve", "kv-match-and-retrieve", "kv-commit"]
)
def test_bodies_that_are_no_messages(gateway: GatewayProcess, resource: str, data: bytes) -> None:
    expected = "InvalidDescriptor" if resource == "kv-retrieve" else "InvalidRequest"
    refused(ask(gateway, resource, data), 400, expected)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b"\xff", b"[" * 100_000], ids=lambda data: repr(data[:8]))
def test_namespaces_that_are_none(gateway: GatewayProcess, data: bytes) -> None:
    refused(ask(gateway, "kv-namespace", data, method="PUT"), 400, "InvalidRequest")


def test_a_cancellation_of_no_session(gateway: GatewayProcess) -> None:
    body = CancelRequest(b"\x5a" * 16, 1, 0, 0.1).encode()
    refused(ask(gateway, "kv-delivery", body, method="DELETE"), 404, "NoSuchSession")
    refused(ask(gateway, "kv-delivery", b"\xc1", method="DELETE"), 400, "InvalidRequest")


@pytest.mark.parametrize("streams", [65, 1 << 16])
def test_too_many_streams(gateway: GatewayProcess, streams: int) -> None:
    body = msgpack.packb({"version": 1, "streams": streams})
    assert str(streams) in refused(ask(gateway, "kv-session", body), 400, "InvalidRequest")


def test_a_match_with_half_a_key_and_with_parts_that_are_not_there(gateway: GatewayProcess, stored: Stored) -> None:
    namespace, chain, _ = stored
    half = msgpack.packb({"version": 1, "namespace": namespace.digest, "keys": chain.data[:-1], "parts": []})
    refused(ask(gateway, "kv-match", half), 400, "InvalidRequest")
    absent = MatchRequest(namespace.digest, chain, ((0, 1),)).encode()
    refused(ask(gateway, "kv-match", absent), 400, "InvalidLayout")


@pytest.mark.parametrize("resource", ["kv-match", "kv-retrieve", "kv-match-and-retrieve"])
def test_a_body_beyond_the_limit(gateway: GatewayProcess, resource: str) -> None:
    refused(ask(gateway, resource, bytes(MAX_MESSAGE_BYTES + 1)), 413, "EntityTooLarge")


def test_a_body_that_ends_early(gateway: GatewayProcess, stored: Stored) -> None:
    """The connection ends, whether it is answered or not; whoever comes next is served."""
    body = descriptor_of(stored[2]).encode()
    head = f"POST {RETRIEVE} HTTP/1.1\r\nHost: gateway\r\nContent-Length: {len(body) + 1}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", gateway.port), PATIENCE_S) as sock:
        sock.sendall(head + body)
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while data := sock.recv(65536):
            answer += data
    assert not answer.startswith(b"HTTP/1.1 2")


@pytest.mark.parametrize(
    "trace", ["ünïcode".encode(), b"\xff\xfe", b"<&>", b"x" * 2000], ids=["accents", "no text", "markup", "long"]
)
def test_a_trace_that_is_odd(gateway: GatewayProcess, trace: bytes) -> None:
    """It comes back in the error, as far as that can say it."""
    connection = gateway.connect()
    connection.putrequest("POST", f"/{BUCKET}?kv-match")
    connection.putheader("x-kv-trace", trace)
    connection.putheader("Content-Length", "1")
    connection.endheaders(b"\xc1")
    refused(Answer.read(connection.getresponse()), 400, "InvalidRequest")
    connection.close()


NAMES = {
    "plain": "nobody-has-this",
    "no characters": "\uffff\ufffe",
    "nul": "\x00",
    "markup": "<&]]>",
    "long": "x" * 100_000,
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_a_commit_of_what_was_never_uploaded(gateway: GatewayProcess, name: str) -> None:
    refused(ask(gateway, "kv-commit", CommitRequest((name,)).encode()), 404, "NoSuchUpload")
