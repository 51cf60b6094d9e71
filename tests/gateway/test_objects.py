"""Plain objects through a gateway, over raw HTTP: whole, ranged, listed, and what is refused."""

from __future__ import annotations

import gzip
import os
from urllib.parse import quote
from xml.etree import ElementTree

import pytest

from tests.gateway.process import BUCKET, Answer, GatewayProcess

LARGE = 3 << 20  # beyond what is answered from the control process
_XMLNS = "{http://s3.amazonaws.com/doc/2006-03-01/}"


def path_of(name: str) -> str:
    return f"/{BUCKET}/{quote(name)}"


def listed(answer: Answer, tag: str) -> list[str]:
    root = ElementTree.fromstring(answer.body)
    key = "Key" if tag == "Contents" else "Prefix"
    return [item.findtext(f"{_XMLNS}{key}") or "" for item in root.iter(f"{_XMLNS}{tag}") if item is not root]


@pytest.mark.parametrize("size", [0, 1, 1000, LARGE])
@pytest.mark.parametrize("expect", [False, True], ids=["at once", "100-continue"])
def test_what_is_put_is_got(gateway: GatewayProcess, size: int, expect: bool) -> None:
    body, name = os.urandom(size), f"whole/{size}-{expect}"
    connection = gateway.connect()
    connection.putrequest("PUT", path_of(name))
    connection.putheader("Content-Length", str(size))
    if expect:
        connection.putheader("Expect", "100-continue")
    connection.endheaders()
    if expect and size:
        assert connection.sock.recv(64).startswith(b"HTTP/1.1 100 ")
    connection.send(body)
    put = Answer.read(connection.getresponse())
    connection.close()
    assert put.status == 200
    got = gateway.ask("GET", path_of(name))
    assert (got.status, got.body) == (200, body)
    assert got.headers["etag"] == put.headers["etag"]
    head = gateway.ask("HEAD", path_of(name))
    assert (head.status, head.headers["content-length"], head.body) == (200, str(size), b"")


@pytest.mark.parametrize(
    ("header", "first", "stop"),
    [
        ("bytes=0-9", 0, 10),
        (f"bytes=5-{LARGE - 10}", 5, LARGE - 9),
        ("bytes=-7", LARGE - 7, LARGE),
        (f"bytes={LARGE - 3}-", LARGE - 3, LARGE),
        (f"bytes=10-{LARGE * 2}", 10, LARGE),
    ],
)
def test_ranges(gateway: GatewayProcess, header: str, first: int, stop: int) -> None:
    body = bytes(range(256)) * (LARGE // 256)
    assert gateway.ask("PUT", path_of("ranged"), body).status == 200
    got = gateway.ask("GET", path_of("ranged"), headers={"Range": header})
    assert (got.status, got.body) == (206, body[first:stop])
    assert got.headers["content-range"] == f"bytes {first}-{stop - 1}/{LARGE}"


@pytest.mark.parametrize("header", [f"bytes={LARGE}-", f"bytes={LARGE + 5}-{LARGE + 9}", "bytes=-0"])
def test_ranges_that_cannot_be(gateway: GatewayProcess, header: str) -> None:
    gateway.ask("PUT", path_of("ranged"), bytes(LARGE))
    got = gateway.ask("GET", path_of("ranged"), headers={"Range": header})
    assert got.status == 416
    assert got.error["Code"] == "InvalidRange"


@pytest.mark.parametrize("header", ["bytes=9-3", "lines=0-1", "bytes=-", "bytes=0-1,5-6", "nonsense"])
def test_what_is_no_range_does_not_count(gateway: GatewayProcess, header: str) -> None:
    gateway.ask("PUT", path_of("ranged"), bytes(1000))
    got = gateway.ask("GET", path_of("ranged"), headers={"Range": header})
    assert (got.status, len(got.body)) == (200, 1000)


def test_a_connection_goes_on_after_every_answer(gateway: GatewayProcess) -> None:
    """Also after a response that a data worker wrote, and after an error."""
    connection = gateway.connect()
    for method, name, body in (
        ("PUT", "kept", bytes(LARGE)),
        ("GET", "kept", b""),
        ("GET", "missing", b""),
        ("HEAD", "kept", b""),
        ("GET", "kept", b""),
        ("DELETE", "kept", b""),
    ):
        connection.request(method, path_of(name), body=body or None)
        sock = connection.sock
        answer = Answer.read(connection.getresponse())
        assert answer.status == {"missing": 404}.get(name, 204 if method == "DELETE" else 200)
        assert connection.sock is sock, f"{method} {name} closed the connection"
    connection.close()


@pytest.mark.parametrize("name", ["a b", "p%41rcent", "ünïcode/ключ", "plus+and&amp;", "deep/er/and/deeper", "x" * 500])
def test_odd_names(gateway: GatewayProcess, name: str) -> None:
    assert gateway.ask("PUT", path_of(name), b"odd").status == 200
    assert gateway.ask("GET", path_of(name)).body == b"odd"
    answer = gateway.ask("GET", f"/{BUCKET}?list-type=2&prefix={quote(name)}")
    assert listed(answer, "Contents") == [name]
    assert gateway.ask("DELETE", path_of(name)).status == 204
    assert gateway.ask("GET", path_of(name)).status == 404


def test_a_compressed_body_is_stored_as_it_was_sent(gateway: GatewayProcess) -> None:
    body = gzip.compress(b"text " * 1000)
    assert gateway.ask("PUT", path_of("squeezed"), body, {"Content-Encoding": "gzip"}).status == 200
    assert gateway.ask("GET", path_of("squeezed")).body == body


def test_lists_by_prefix_delimiter_and_page(gateway: GatewayProcess) -> None:
    names = ["list/a", "list/b/1", "list/b/2", "list/c", "list/d/1", "list/e"]
    for name in names:
        gateway.ask("PUT", path_of(name), b"x")
    assert listed(gateway.ask("GET", f"/{BUCKET}?prefix=list/"), "Contents") == names
    by_folder = gateway.ask("GET", f"/{BUCKET}?prefix=list/&delimiter=/")
    assert listed(by_folder, "Contents") == ["list/a", "list/c", "list/e"]
    assert listed(by_folder, "CommonPrefixes") == ["list/b/", "list/d/"]
    for delimiter in ("", "&delimiter=/"):
        found: list[str] = []
        token = ""
        for _ in range(10):
            at = f"&continuation-token={quote(token)}" if token else ""
            page = gateway.ask("GET", f"/{BUCKET}?list-type=2&prefix=list/&max-keys=2{delimiter}{at}")
            found += listed(page, "Contents") + listed(page, "CommonPrefixes")
            token = ElementTree.fromstring(page.body).findtext(f"{_XMLNS}NextContinuationToken") or ""
            if not token:
                break
        assert sorted(found) == (
            sorted(names) if not delimiter else [*names[:1], "list/b/", "list/c", "list/d/", "list/e"]
        )


def test_kv_is_not_among_the_objects(gateway: GatewayProcess) -> None:
    for method in ("PUT", "DELETE"):
        assert gateway.ask(method, path_of(".kv/log/x"), b"x").status == 400
    assert gateway.ask("GET", path_of(".kv/log/x")).status == 404
    assert not [name for name in listed(gateway.ask("GET", f"/{BUCKET}"), "Contents") if name.startswith(".kv/")]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere/x", 404, "NoSuchBucket"),
        ("DELETE", "/", 405, "MethodNotAllowed"),
        ("POST", f"/{BUCKET}/x", 405, "MethodNotAllowed"),
        ("POST", f"/{BUCKET}?kv-nonsense", 405, "MethodNotAllowed"),
        ("GET", f"/{BUCKET}/a//b", 404, "NoSuchKey"),
        ("PUT", f"/{BUCKET}/a%0Ab", 400, "InvalidArgument"),
        ("PUT", f"/{BUCKET}/{'x' * 1025}", 400, "KeyTooLongError"),
        ("GET", f"/{BUCKET}?max-keys=many", 400, "InvalidArgument"),
        ("GET", f"/{BUCKET}?policy", 501, "NotImplemented"),
        ("PUT", "/B", 400, "InvalidBucketName"),
    ],
)
def test_refusals_are_s3_errors(gateway: GatewayProcess, method: str, path: str, status: int, code: str) -> None:
    answer = gateway.ask(method, path)
    assert (answer.status, answer.error["Code"]) == (status, code)


def test_if_none_match_keeps_what_is_there(gateway: GatewayProcess) -> None:
    assert gateway.ask("PUT", path_of("once"), b"first").status == 200
    again = gateway.ask("PUT", path_of("once"), b"second", {"If-None-Match": "*"})
    assert again.status == 412
    assert gateway.ask("GET", path_of("once")).body == b"first"


def test_a_bucket_is_made_and_stays(gateway: GatewayProcess) -> None:
    assert gateway.ask("HEAD", "/another").status == 404
    assert gateway.ask("PUT", "/another").status == 200
    assert gateway.ask("PUT", "/another/x", b"there").status == 200
    gateway.restart()
    assert gateway.ask("GET", "/another/x").body == b"there"
    assert gateway.ask("GET", path_of("x")).status == 404
