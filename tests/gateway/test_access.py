"""Who may do what: keys and their grants, signatures that do not match, bodies that are not asked for."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from objectcache.cache import Match
from objectcache.descriptor import Target, TargetKind
from objectcache.errors import AccessDeniedError, InvalidAccessKeyIdError, SignatureDoesNotMatchError
from objectcache.messages import CancelRequest, SessionAnswer, SessionRequest
from objectcache.s3 import sign_headers
from objectcache.testing.synthetic import check_delivery, flat_layout, new_namespace, prompt, store_parts
from tests.gateway.fixtures import StartGateway
from tests.gateway.keys import key_named, streaming_body, streaming_headers, write_keys
from tests.gateway.process import BUCKET, PATIENCE_S, Answer, GatewayProcess, eventually
from tests.gateway.raw import connected, descriptor_of

OTHER = "elsewhere"
GRANTS = {
    "admin": {"*": "admin"},
    "writer": {BUCKET: "write"},
    "reader": {BUCKET: "read"},
    "stranger": {OTHER: "admin"},
    "nobody": {},
}
ADMIN, WRITER, READER, STRANGER, NOBODY = map(key_named, GRANTS)
LAYOUT = flat_layout(4, 4096)
LARGE = 300_000  # beyond what is answered from the control process


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway on which everybody signs, with a few objects."""
    data = tmp_path_factory.mktemp("guarded")
    keys = write_keys(data / "keys.toml", GRANTS)
    settings = {"anonymous": "none", "access_keys": str(keys), "buckets": [BUCKET, OTHER]}
    running = GatewayProcess(data, settings=settings).start()
    try:
        for path in (f"/{BUCKET}/there", f"/{OTHER}/there"):
            assert running.ask("PUT", path, b"there", key=ADMIN).status == 200
        assert running.ask("PUT", f"/{BUCKET}/large", bytes(LARGE), key=ADMIN).status == 200
        yield running
    finally:
        running.kill()


def denied(answer: Answer) -> bool:
    if answer.status != 403:
        return False
    return answer.error["Code"] == "AccessDenied"


def buckets(answer: Answer) -> list[str]:
    return [item.text or "" for item in ElementTree.fromstring(answer.body).iter() if item.tag.endswith("}Name")]


# -- the client -------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["tcp", "http"])
@pytest.mark.parametrize("by", ["options", "environment"])
def test_a_client_that_signs(guarded: GatewayProcess, target: str, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {}
    if by == "options":
        options = {"access_key": WRITER.access_key, "secret_key": WRITER.secret_key}
    else:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", WRITER.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", WRITER.secret_key)
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, 4)
    with guarded.open(target=target, **options) as cache:
        store_parts(cache, namespace, chain)
        found = cache.match(namespace, chain)
        assert found.tokens == 4 * 16
        with cache.retrieve(found) as retrieval:
            check_delivery(retrieval, found)
        cache.release(found)


def test_a_client_that_may_not(guarded: GatewayProcess) -> None:
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, 1)
    with guarded.open() as cache, pytest.raises(AccessDeniedError):
        cache.match(namespace, chain)
    with guarded.open(access_key="nobody-knows", secret_key="0" * 20) as cache, pytest.raises(InvalidAccessKeyIdError):
        cache.match(namespace, chain)
    with guarded.open(access_key="reader", secret_key="0" * 20) as cache, pytest.raises(SignatureDoesNotMatchError):
        cache.match(namespace, chain)
    with guarded.open(access_key="reader", secret_key=READER.secret_key) as cache:
        assert cache.match(namespace, chain).tokens == 0
        with pytest.raises(AccessDeniedError):
            store_parts(cache, namespace, chain)


# -- grants -----------------------------------------------------------------------------------------

READS = [
    ("GET", f"/{BUCKET}"),
    ("HEAD", f"/{BUCKET}"),
    ("GET", f"/{BUCKET}?list-type=2"),
    ("GET", f"/{BUCKET}?versions"),
    ("GET", f"/{BUCKET}?location"),
    ("GET", f"/{BUCKET}?uploads"),
    ("GET", f"/{BUCKET}/there"),
    ("HEAD", f"/{BUCKET}/there"),
    ("GET", f"/{BUCKET}/there?acl"),
    ("GET", f"/{BUCKET}/large"),
    ("POST", f"/{BUCKET}?kv-match"),
    ("POST", f"/{BUCKET}?kv-release"),
    ("POST", f"/{BUCKET}?kv-session"),
    ("POST", f"/{BUCKET}?kv-retrieve"),
    ("POST", f"/{BUCKET}?kv-match-and-retrieve"),
    ("DELETE", f"/{BUCKET}?kv-delivery"),
    ("POST", f"/{BUCKET}?kv-damage"),
    ("POST", f"/{BUCKET}?kv-explain"),
]
WRITES = [
    ("PUT", f"/{BUCKET}/new"),
    ("DELETE", f"/{BUCKET}/new"),
    ("POST", f"/{BUCKET}?delete"),
    ("POST", f"/{BUCKET}/new?uploads"),
    ("PUT", f"/{BUCKET}/new?uploadId=x&partNumber=1"),
    ("POST", f"/{BUCKET}/new?uploadId=x"),
    ("DELETE", f"/{BUCKET}/new?uploadId=x"),
    ("PUT", f"/{BUCKET}?kv-namespace"),
    ("PUT", f"/{BUCKET}?kv-store"),
    ("POST", f"/{BUCKET}?kv-commit"),
]
ADMINISTERS = [("PUT", f"/{BUCKET}"), ("DELETE", f"/{BUCKET}")]


def refused(guarded: GatewayProcess, method: str, path: str, key: object) -> bool:
    answer = guarded.ask(method, path, key=key)  # type: ignore[arg-type]
    return answer.status == 403 and (method == "HEAD" or denied(answer))


@pytest.mark.parametrize(("method", "path"), READS + WRITES + ADMINISTERS)
def test_what_nobody_may(guarded: GatewayProcess, method: str, path: str) -> None:
    """Without a signature, and with a key that is for something else."""
    assert refused(guarded, method, path, None)
    assert refused(guarded, method, path, NOBODY)
    assert refused(guarded, method, path, STRANGER)


@pytest.mark.parametrize(("method", "path"), WRITES + ADMINISTERS)
def test_what_readers_may_not(guarded: GatewayProcess, method: str, path: str) -> None:
    assert refused(guarded, method, path, READER)


@pytest.mark.parametrize(("method", "path"), ADMINISTERS)
def test_what_writers_may_not(guarded: GatewayProcess, method: str, path: str) -> None:
    assert refused(guarded, method, path, WRITER)


def test_what_each_may(guarded: GatewayProcess) -> None:
    for method, path in READS:
        assert not refused(guarded, method, path, READER)
    for method, path in READS + WRITES:
        assert not refused(guarded, method, path, WRITER)
    assert guarded.ask("PUT", "/made-by-admin", key=ADMIN).status == 200
    assert denied(guarded.ask("PUT", "/made-by-writer", key=WRITER))
    assert guarded.ask("DELETE", "/made-by-admin", key=ADMIN).status == 204


def test_buckets_that_one_sees(guarded: GatewayProcess) -> None:
    assert buckets(guarded.ask("GET", "/", key=ADMIN)) == [OTHER, BUCKET]
    assert buckets(guarded.ask("GET", "/", key=READER)) == [BUCKET]
    assert buckets(guarded.ask("GET", "/", key=STRANGER)) == [OTHER]
    assert buckets(guarded.ask("GET", "/", key=NOBODY)) == []
    assert denied(guarded.ask("GET", "/"))


def test_a_copy_needs_to_read_its_source(guarded: GatewayProcess) -> None:
    source = {"x-amz-copy-source": f"/{OTHER}/there"}
    assert denied(guarded.ask("PUT", f"/{BUCKET}/stolen", headers=source, key=WRITER))
    begun = guarded.ask("POST", f"/{BUCKET}/stolen?uploads", key=WRITER)
    id = next(item.text for item in ElementTree.fromstring(begun.body).iter() if item.tag.endswith("UploadId"))
    part = f"/{BUCKET}/stolen?partNumber=1&uploadId={id}"
    assert denied(guarded.ask("PUT", part, headers=source, key=WRITER))
    assert guarded.ask("PUT", f"/{BUCKET}/copied", headers=source, key=ADMIN).status == 200


def test_health_is_for_everybody(guarded: GatewayProcess) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        assert guarded.ask("GET", path).status == 200


def test_names_of_responses_headers_are_for_those_who_sign(guarded: GatewayProcess) -> None:
    for path in (f"/{BUCKET}/there", f"/{BUCKET}/large"):
        asked = f"{path}?response-content-type=text%2Fhtml&response-content-disposition=attachment"
        answer = guarded.ask("GET", asked, key=READER)
        assert answer.headers["content-type"] == "text/html"
        assert answer.headers["content-disposition"] == "attachment"
        injected = guarded.ask("GET", f"{path}?response-content-type=a%0D%0ASet-Cookie:%20b", key=READER)
        assert (injected.status, injected.error["Code"]) == (400, "InvalidArgument")
        assert "set-cookie" not in injected.headers


def test_strangers_may_be_let_in(own_gateway: StartGateway) -> None:
    gateway = own_gateway(anonymous="read")
    assert gateway.ask("GET", f"/{BUCKET}").status == 200
    assert denied(gateway.ask("PUT", f"/{BUCKET}/x", b"x"))
    answer = gateway.ask("GET", f"/{BUCKET}?response-content-type=text/html")
    assert answer.status == 200
    assert gateway.ask("GET", "/").status == 200


# -- signatures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["path", "query", "header", "method", "body"])
def test_what_is_not_what_was_signed(guarded: GatewayProcess, what: str) -> None:
    path, method, body = f"/{BUCKET}/tampered?x-id=1", "PUT", b"body"
    headers = {"x-amz-meta-a": "1"}
    headers |= sign_headers(WRITER, method, guarded.host, path, headers, payload=body)
    code = "SignatureDoesNotMatch"
    if what == "path":
        path = path.replace("tampered", "tampereD")
    elif what == "query":
        path = path.replace("x-id=1", "x-id=2")
    elif what == "header":
        headers["x-amz-meta-a"] = "2"
    elif what == "method":
        method = "DELETE"
    else:
        body, code = b"bodY", "XAmzContentSHA256Mismatch"
    answer = guarded.ask(method, path, body, headers)
    assert answer.error["Code"] == code
    assert guarded.ask("GET", f"/{BUCKET}/tampered", key=READER).status == 404


def test_headers_of_amazon_must_be_signed(guarded: GatewayProcess) -> None:
    path = f"/{BUCKET}/there"
    headers = sign_headers(WRITER, "PUT", guarded.host, path, {}, payload=b"")
    assert denied(guarded.ask("PUT", path, headers=headers | {"x-amz-copy-source": f"/{BUCKET}/large"}))


@pytest.mark.parametrize("ahead_s", [-3600, 3600])
def test_clocks_that_differ(guarded: GatewayProcess, ahead_s: int) -> None:
    path = f"/{BUCKET}/there"
    headers = sign_headers(READER, "GET", guarded.host, path, {}, payload=b"", now_s=time.time() + ahead_s)
    answer = guarded.ask("GET", path, headers=headers)
    assert (answer.status, answer.error["Code"]) == (403, "RequestTimeTooSkewed")


CHUNKS = [b"0123456789abcdef" * 4096, b"the rest"]


@pytest.mark.parametrize("wrong", ["", "flipped", "missing chunk", "not signed", "another length"])
def test_a_body_in_signed_chunks(guarded: GatewayProcess, wrong: str) -> None:
    path, data = f"/{BUCKET}/streamed-{wrong.replace(' ', '-')}", b"".join(CHUNKS)
    announced = len(data) - (wrong == "another length")
    headers = streaming_headers(WRITER, guarded.host, path, announced)
    wire = streaming_body(WRITER, path, headers, CHUNKS[:1] if wrong == "missing chunk" else CHUNKS)
    if wrong == "flipped":
        wire = wire.replace(b"the rest", b"The rest")
    elif wrong == "not signed":
        wire = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*CHUNKS, b""))
    answer = guarded.ask("PUT", path, wire, headers)
    found = guarded.ask("GET", path, key=READER)
    if wrong:
        assert answer.error["Code"] in ("SignatureDoesNotMatch", "IncompleteBody")
        assert found.status == 404
    else:
        assert answer.status == 200
        assert found.body == data


@pytest.mark.parametrize(
    "wrong", ["nothing", "signature", "key", "grant", "bucket", "kept", "large", "condition", "tagging"]
)
def test_a_body_that_is_not_wanted_is_not_asked_for(guarded: GatewayProcess, wrong: str) -> None:
    key, path, size, headers, code = WRITER, f"/{BUCKET}/waiting", 1000, {}, ""
    if wrong == "signature":
        key, code = replace(WRITER, secret_key="x" * 20), "SignatureDoesNotMatch"
    elif wrong == "key":
        key, code = key_named("missing"), "InvalidAccessKeyId"
    elif wrong == "grant":
        key, code = READER, "AccessDenied"
    elif wrong == "bucket":
        path, code = "/no-such-bucket/x", "NoSuchBucket"
    elif wrong == "kept":
        path, code = f"/{BUCKET}/.kv/x", "InvalidRequest"
    elif wrong == "large":
        size, code = 6 << 30, "EntityTooLarge"
    elif wrong == "condition":
        path, headers, code = f"/{BUCKET}/there", {"If-None-Match": "*"}, "PreconditionFailed"
    elif wrong == "tagging":
        headers, code = {"x-amz-tagging": "a=b"}, "NotImplemented"
    headers |= sign_headers(key, "PUT", guarded.host, path, headers, payload=None)
    connection = guarded.connect()
    connection.putrequest("PUT", path)
    for name, value in {**headers, "Content-Length": str(size), "Expect": "100-continue"}.items():
        connection.putheader(name, value)
    connection.endheaders()
    try:
        if not code:
            assert connection.sock.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
            connection.send(bytes(size))
            assert connection.getresponse().status == 200
        else:
            assert connection.sock.recv(12, socket.MSG_PEEK) != b"HTTP/1.1 100"
            assert Answer.read(connection.getresponse()).error["Code"] == code
    finally:
        connection.close()


def test_a_small_body_that_waits_is_asked_for(guarded: GatewayProcess) -> None:
    """Of a request that the control process reads itself."""
    path, body = f"/{BUCKET}?delete", b"<Delete><Object><Key>gone</Key></Object></Delete>"
    headers = sign_headers(WRITER, "POST", guarded.host, path, {}, payload=body)
    connection = guarded.connect()
    connection.putrequest("POST", path)
    for name, value in {**headers, "Content-Length": str(len(body)), "Expect": "100-continue"}.items():
        connection.putheader(name, value)
    connection.endheaders()
    assert connection.sock.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.send(body)
    assert connection.getresponse().status == 200
    connection.close()


# -- sessions ---------------------------------------------------------------------------------------


def open_session(guarded: GatewayProcess) -> SessionAnswer:
    answer = guarded.ask("POST", f"/{BUCKET}?kv-session", SessionRequest(1).encode(), key=WRITER)
    assert answer.status == 200
    return SessionAnswer.decode(answer.body)


def stored(guarded: GatewayProcess) -> Match:
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, 2)
    with guarded.open(access_key=WRITER.access_key, secret_key=WRITER.secret_key) as cache:
        store_parts(cache, namespace, chain)
        return replace(cache.match(namespace, chain), lease=None)


def test_a_session_is_of_the_key_that_opened_it(guarded: GatewayProcess) -> None:
    match = stored(guarded)
    session = open_session(guarded)
    with connected(session) as sock:
        body = descriptor_of(match, target=Target(TargetKind.TCP, session.session)).encode()
        for key in (READER, ADMIN):
            answer = guarded.ask("POST", f"/{BUCKET}?kv-retrieve", body, key=key)
            assert (answer.status, answer.error["Code"]) == (404, "NoSuchSession")
            cancel = CancelRequest(session.session, 1, 0, 1.0).encode()
            answer = guarded.ask("DELETE", f"/{BUCKET}?kv-delivery", cancel, key=key)
            assert (answer.status, answer.error["Code"]) == (404, "NoSuchSession")
        sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        sock.settimeout(PATIENCE_S)
        assert guarded.ask("POST", f"/{BUCKET}?kv-retrieve", body, key=WRITER).status == 200
        assert sock.recv(1)


def test_a_connection_to_no_session_is_dropped(guarded: GatewayProcess) -> None:
    session = open_session(guarded)
    with connected(replace(session, session=bytes(len(session.session)))) as sock:
        assert sock.recv(1) == b""


# -- the file of keys -------------------------------------------------------------------------------


def test_keys_change_while_the_gateway_runs(own_gateway: StartGateway, tmp_path: Path) -> None:
    path = write_keys(tmp_path / "keys.toml", {"first": {"*": "admin"}})
    gateway = own_gateway(anonymous="none", access_keys=str(path))
    first, second = key_named("first"), key_named("second")
    assert gateway.ask("GET", "/", key=first).status == 200
    assert gateway.ask("GET", "/", key=second).error["Code"] == "InvalidAccessKeyId"
    write_keys(path, {"first": {"*": "read"}, "second": {"*": "admin"}})
    eventually(lambda: gateway.ask("GET", "/", key=second).status == 200, "the new key works", 3.0)
    assert denied(gateway.ask("PUT", f"/{BUCKET}/x", b"x", key=first))
    path.write_text("[[key]\n")

    def logged() -> bool:
        assert gateway.ask("GET", "/", key=second).status == 200
        return "access keys stay as they were" in gateway.log

    eventually(logged, "the mistake is logged", 5.0)
    assert gateway.ask("GET", "/", key=second).status == 200
