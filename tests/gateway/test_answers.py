"""What every answer has: errors that are XML, heads without bodies; and bodies in all the ways that they come."""

from __future__ import annotations

import hashlib
import os
import socket
import time

import pytest

from objectcache.workers import bodies
from tests.gateway.process import BUCKET, PATIENCE_S, GatewayProcess, eventually
from tests.gateway.test_multipart import found

LARGE = 3 << 20


@pytest.mark.parametrize(
    ("method", "path", "headers", "code"),
    [
        ("GET", f"/{BUCKET}/missing<&>", {}, "NoSuchKey"),
        ("GET", "/no-such-bucket", {}, "NoSuchBucket"),
        ("GET", f"/{BUCKET}/%ff", {}, "InvalidArgument"),
        ("GET", f"/{BUCKET}?list-type=3", {}, "InvalidArgument"),
        ("GET", f"/{BUCKET}?list-type=2&continuation-token=%FF", {}, "InvalidArgument"),
        ("GET", f"/{BUCKET}?encoding-type=x", {}, "InvalidArgument"),
        ("GET", f"/{BUCKET}?max-keys=-1", {}, "InvalidArgument"),
        ("PUT", f"/{BUCKET}?policy", {}, "NotImplemented"),
        ("PUT", f"/{BUCKET}/x", {"x-amz-copy-source": "nothing"}, "InvalidArgument"),
        ("PUT", f"/{BUCKET}/x", {"x-amz-copy-source": f"/{BUCKET}/missing"}, "NoSuchKey"),
        ("PUT", f"/{BUCKET}/x", {"x-amz-copy-source": "/no-such-bucket/x"}, "NoSuchBucket"),
        ("PUT", f"/{BUCKET}/x", {"Content-MD5": "x"}, "InvalidDigest"),
        ("PUT", f"/{BUCKET}/x", {"x-amz-checksum-crc32": "x"}, "InvalidRequest"),
        ("PUT", f"/{BUCKET}/x", {"x-amz-meta-a": "x" * 4000}, "MetadataTooLarge"),
        ("PUT", f"/{BUCKET}/x", {"x-amz-content-sha256": "0" * 64}, "XAmzContentSHA256Mismatch"),
        ("PUT", f"/{BUCKET}/x?partNumber=1", {}, "InvalidArgument"),
        ("POST", f"/{BUCKET}?delete", {}, "MalformedXML"),
        ("DELETE", f"/{BUCKET}/x?versionId=1", {}, "NoSuchKey"),
        ("GET", f"/{BUCKET}/x?response-expires=0", {}, "InvalidRequest"),
        ("GET", f"/{BUCKET}", {"Authorization": "AWS4-HMAC-SHA256 nonsense"}, "AuthorizationHeaderMalformed"),
        ("GET", f"/{BUCKET}", {"Authorization": "Basic eDp5"}, "InvalidArgument"),
    ],
)
def test_errors_are_xml(gateway: GatewayProcess, method: str, path: str, headers: dict[str, str], code: str) -> None:
    answer = gateway.ask(method, path, headers=headers | {"x-kv-trace": "trace-1"})
    assert answer.headers["content-type"] == "application/xml"
    assert answer.error["Code"] == code
    assert answer.error["Message"]
    assert answer.error["RequestId"] == answer.headers["x-amz-request-id"] == "trace-1"
    if "%" not in path and "<" not in path:
        assert answer.error["Resource"] == path.partition("?")[0]


@pytest.mark.parametrize("path", [f"/{BUCKET}/missing", "/no-such-bucket", "/no-such-bucket/x", f"/{BUCKET}/%ff"])
def test_a_head_has_no_body(gateway: GatewayProcess, path: str) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), PATIENCE_S) as sock:
        sock.sendall(f"HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: sock.recv(1000), b""))
    assert answer.startswith(b"HTTP/1.1 4")
    assert answer.partition(b"\r\n\r\n")[2] == b""


def test_heads_say_what_a_get_would(gateway: GatewayProcess) -> None:
    path = f"/{BUCKET}/headed"
    gateway.ask(
        "PUT", path, bytes(LARGE), {"Content-Type": "a/b", "x-amz-meta-key": "värde".encode().decode("latin-1")}
    )
    for headers in ({}, {"Range": "bytes=5-9"}, {"Range": f"bytes={LARGE}-"}):
        got, head = (gateway.ask(method, path, headers=headers) for method in ("GET", "HEAD"))
        assert got.status == head.status
        assert head.body == b""
        if got.status < 300:
            for name in ("content-length", "content-type", "etag", "content-range", "x-amz-meta-key", "last-modified"):
                assert got.headers.get(name) == head.headers.get(name)


def chunks(body: bytes, size: int) -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)


@pytest.mark.parametrize("size", [0, 1, 100_000, LARGE])
@pytest.mark.parametrize("expect", [False, True], ids=["at once", "100-continue"])
def test_a_body_without_a_length(gateway: GatewayProcess, size: int, expect: bool) -> None:
    body, path = os.urandom(size), f"/{BUCKET}/endless-{size}-{expect}"
    with socket.create_connection(("127.0.0.1", gateway.port), PATIENCE_S) as sock:
        head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n"
        sock.sendall((head + ("Expect: 100-continue\r\n" if expect else "") + "\r\n").encode())
        if expect:
            assert sock.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(chunks(body, 70_001) + b"0\r\n\r\n")
        answer = b"".join(iter(lambda: sock.recv(1000), b""))
    assert answer.startswith(b"HTTP/1.1 200")
    assert hashlib.md5(body).hexdigest().encode() in answer
    assert gateway.ask("GET", path).body == body


def test_a_body_without_a_length_that_breaks_off_is_no_object(gateway: GatewayProcess) -> None:
    path = f"/{BUCKET}/endless-cut"
    with socket.create_connection(("127.0.0.1", gateway.port), PATIENCE_S) as sock:
        head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        sock.sendall(head.encode() + chunks(bytes(200_000), 50_000))
        eventually(lambda: gateway.temporaries, "the upload has begun")
    eventually(lambda: not gateway.temporaries, "the upload is over")
    assert gateway.ask("GET", path).status == 404


def test_a_body_without_a_length_has_an_end(gateway: GatewayProcess) -> None:
    path, piece = f"/{BUCKET}/endless-large", bytes(1 << 20)
    with socket.create_connection(("127.0.0.1", gateway.port), PATIENCE_S) as sock:
        sock.sendall(f"PUT {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        try:
            for _ in range((bodies.MAX_UNANNOUNCED_BYTES >> 20) + 20):
                sock.sendall(chunks(piece, 1 << 20))
        except ConnectionError:
            pass  # it has hung up already
        else:
            assert b"EntityTooLarge" in sock.recv(2000)
    assert gateway.ask("GET", path).status == 404
    eventually(lambda: not gateway.temporaries, "the upload is over")


@pytest.mark.parametrize("size", [10, LARGE])
def test_a_body_that_is_cut_off_is_no_object(gateway: GatewayProcess, size: int) -> None:
    path = f"/{BUCKET}/cut-{size}"
    connection = gateway.connect()
    connection.putrequest("PUT", path)
    connection.putheader("Content-Length", str(size))
    connection.endheaders()
    connection.send(bytes(size - 1))
    connection.close()
    eventually(lambda: not gateway.temporaries, "the upload is over")
    assert gateway.ask("GET", path).status == 404


def test_deleting_many(gateway: GatewayProcess) -> None:
    names = ["many-1", "many-2", "a&b"]
    for name in names:
        gateway.ask("PUT", f"/{BUCKET}/{name}", b"x")
    gateway.ask("PUT", f"/{BUCKET}/versioned", b"x")
    objects = "".join(f"<Object><Key>{name.replace('&', '&amp;')}</Key></Object>" for name in [*names, "never"])
    objects += "<Object><Key>.kv/x</Key></Object>"
    objects += "<Object><Key>versioned</Key><VersionId>1</VersionId></Object>"
    body = f"<Delete>{objects}</Delete>".encode()
    loud = gateway.ask("POST", f"/{BUCKET}?delete", body)
    assert found(loud, "Key") == [*names, "never", ".kv/x", "versioned"]
    assert found(loud, "Code") == ["InvalidRequest", "NoSuchKey"]
    quiet = gateway.ask("POST", f"/{BUCKET}?delete", body.replace(b"<Delete>", b"<Delete><Quiet>true</Quiet>"))
    assert found(quiet, "Key") == [".kv/x", "versioned"]
    assert all(gateway.ask("GET", f"/{BUCKET}/{name.replace('&', '%26')}").status == 404 for name in names)
    assert gateway.ask("GET", f"/{BUCKET}/versioned").status == 200


def test_a_copy_takes_what_belongs_to_the_bytes(gateway: GatewayProcess) -> None:
    source = f"/{BUCKET}/copied-from"
    crc = "AAAAAA=="
    put = gateway.ask("PUT", source, b"", {"Content-Type": "a/b", "x-amz-meta-a": "1", "x-amz-checksum-crc32": crc})
    assert put.status == 200
    for directive, type, meta in (("COPY", "a/b", "1"), ("REPLACE", "c/d", None)):
        headers = {"x-amz-copy-source": source, "x-amz-metadata-directive": directive, "Content-Type": "c/d"}
        assert gateway.ask("PUT", f"/{BUCKET}/copied-{directive}", headers=headers).status == 200
        got = gateway.ask("HEAD", f"/{BUCKET}/copied-{directive}", headers={"x-amz-checksum-mode": "ENABLED"})
        assert (got.headers["content-type"], got.headers.get("x-amz-meta-a")) == (type, meta)
        assert got.headers["etag"] == put.headers["etag"]
        assert got.headers["x-amz-checksum-crc32"] == crc
    onto = {"x-amz-copy-source": source}
    assert gateway.ask("PUT", source, headers=onto).error["Code"] == "InvalidRequest"
    assert gateway.ask("PUT", source, headers=onto | {"x-amz-metadata-directive": "REPLACE"}).status == 200


def test_requests_that_come_before_the_answer_to_the_last(gateway: GatewayProcess) -> None:
    """Small and large answers in turn, all asked for at once, and read late: each is whole, in its order."""
    small, large = os.urandom(60_000), os.urandom(LARGE)
    gateway.ask("PUT", f"/{BUCKET}/piped-small", small)
    gateway.ask("PUT", f"/{BUCKET}/piped-large", large)
    order = ["small", "large", "small", "small", "large"] * 2
    with socket.create_connection(("127.0.0.1", gateway.port), PATIENCE_S) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 << 10)
        sock.sendall("".join(f"GET /{BUCKET}/piped-{name} HTTP/1.1\r\nHost: x\r\n\r\n" for name in order).encode())
        time.sleep(0.3)  # until all that has room is on its way
        file = sock.makefile("rb")
        for name in order:
            assert file.readline().startswith(b"HTTP/1.1 200")
            while file.readline() != b"\r\n":
                pass
            expected = small if name == "small" else large
            assert file.read(len(expected)) == expected
