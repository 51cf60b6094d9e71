"""Control streams: the answers of HTTP, to who may have them; and what is no ask ends the stream."""

from __future__ import annotations

import signal
import socket
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from objectcache.descriptor import Target, TargetKind
from objectcache.errors import (
    DrainingError,
    EntityTooLargeError,
    InvalidAccessKeyIdError,
    MethodNotAllowedError,
    RequestError,
    SessionNotFoundError,
)
from objectcache.messages import (
    MAX_MESSAGE_BYTES,
    MatchAndRetrieveAnswer,
    MatchAndRetrieveRequest,
    SessionAnswer,
    SessionRequest,
)
from objectcache.messages.control import SESSION_HEADER, control_frame
from objectcache.s3 import sign_headers
from objectcache.testing.synthetic import LAYERWISE, new_namespace, prompt, store_parts
from tests.gateway.control import PATH, UPGRADE, RawControl, control_of, error_of, refused
from tests.gateway.fixtures import StartGateway
from tests.gateway.keys import key_named, write_keys
from tests.gateway.process import BUCKET, GatewayProcess, eventually, stopped
from tests.gateway.raw import ask, connected, open_session
from tests.gateway.test_leaks import held, settles
from tests.gateway.test_match_and_retrieve import (
    CHUNKS,
    IN_ONE,
    LAYERS,
    LAYOUT,
    ROOM,
    SLICE_BYTES,
    Stored,
    request,
    stored,
)

__all__ = ["stored"]
READER, OTHER = key_named("reader"), key_named("other")
GRANTS = {"reader": {BUCKET: "read"}, "other": {"*": "admin"}}


def in_session(stored: Stored, session: SessionAnswer, **changed: Any) -> bytes:
    asked = MatchAndRetrieveRequest.decode(request(stored, Target(TargetKind.TCP, session.session)))
    return replace(asked, **changed).encode()


def told(body: bytes) -> MatchAndRetrieveAnswer:
    """Without the lease, which is another each time."""
    answer = MatchAndRetrieveAnswer.decode(body)
    return replace(answer, match=replace(answer.match, lease=b"", ttl_s=0.0))


def test_it_answers_as_http_does_and_delivers(gateway: GatewayProcess, stored: Stored) -> None:
    session = open_session(gateway)
    asked = gateway.metric("objectcache_requests_total", operation=IN_ONE, status="200")
    with connected(session) as sock, control_of(gateway, session.session) as control:
        by_http = ask(gateway, IN_ONE, in_session(stored, session, delivery=8))
        answer = control.ask(in_session(stored, session))
        assert (answer.code, told(answer.body)) == (200, told(by_http.body))
        assert told(answer.body).accepted is not None
        came = 0
        while came < 2 * LAYERS * CHUNKS * SLICE_BYTES:
            came += len(sock.recv(1 << 20))
    eventually(
        lambda: gateway.metric("objectcache_requests_total", operation=IN_ONE, status="200") == asked + 2, "counted"
    )


def test_what_is_only_matched(gateway: GatewayProcess, stored: Stored) -> None:
    session = open_session(gateway)
    with connected(session), control_of(gateway, session.session) as control:
        answer = told(control.ask(in_session(stored, session, room_bytes=ROOM - 1)).body)
        assert (answer.match.tokens, answer.accepted) == (CHUNKS * 16, None)
        missed = stored[0], prompt(stored[0], 4, seed=1)
        assert told(control.ask(in_session(missed, session)).body).match.tokens == 0


def test_errors_are_typed_and_it_goes_on(gateway: GatewayProcess, stored: Stored) -> None:
    session = open_session(gateway)
    with connected(session), control_of(gateway, session.session) as control:
        wrong: list[tuple[bytes, int, type[Exception]]] = [
            (b"nonsense", 1, RequestError),
            (request(stored, Target(TargetKind.HTTP)), 1, RequestError),
            (request(stored, Target(TargetKind.TCP, bytes(16))), 1, SessionNotFoundError),
            (in_session(stored, session), 77, MethodNotAllowedError),
        ]
        for body, kind, error in wrong:
            assert type(error_of(control.ask(body, kind=kind))) is error
        assert control.ask(in_session(stored, session)).code == 200


def test_an_ask_may_come_byte_by_byte(gateway: GatewayProcess, stored: Stored) -> None:
    session = open_session(gateway)
    with connected(session), control_of(gateway, session.session) as control:
        wire = control_frame(1, 5, in_session(stored, session, room_bytes=0))
        for at in range(len(wire)):
            control.sock.sendall(wire[at : at + 1])
        answer = control.read()
        assert answer is not None
        assert (answer.code, answer.id) == (200, 5)


def test_asks_do_not_come_together(gateway: GatewayProcess, stored: Stored) -> None:
    """Whoever sent thousands at once would have all of the gateway's time."""
    session = open_session(gateway)
    with connected(session), control_of(gateway, session.session) as control:
        wire = control_frame(1, 5, in_session(stored, session, room_bytes=0))
        control.sock.sendall(wire + wire)
        answer = control.read()
        assert answer is not None
        assert (answer.id, type(error_of(answer))) == (0, RequestError)
        assert control.ended()


def test_nothing_is_sent_to_who_is_gone(own_gateway: StartGateway) -> None:
    gateway = own_gateway(attach_s=60.0)
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, CHUNKS)
    with gateway.open(target="http") as cache:
        store_parts(cache, namespace, chain)
    session = open_session(gateway)
    body = in_session((namespace, chain), session)
    with connected(session), control_of(gateway, session.session) as control:
        assert control.ask(in_session((namespace, chain), session, room_bytes=0)).code == 200
        with stopped(gateway.pid):
            control.sock.sendall(control_frame(1, 2, body))
            control.sock.shutdown(socket.SHUT_RDWR)
        assert told(ask(gateway, IN_ONE, in_session((namespace, chain), session, room_bytes=0)).body).match.tokens
        eventually(lambda: not gateway.metric("objectcache_deliveries_running"), "nothing runs")
        assert gateway.metric("objectcache_requests_total", operation=IN_ONE, status="200") == 2
        assert not gateway.metric("objectcache_delivered_bytes_total")


def test_a_signed_request_opens_one(own_gateway: StartGateway, tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.toml", GRANTS)
    gateway = own_gateway(anonymous="none", access_keys=str(keys), attach_s=60.0)
    body = SessionRequest(1).encode()
    session = SessionAnswer.decode(gateway.ask("POST", f"/{BUCKET}?kv-session", body, key=READER).body)
    named = {SESSION_HEADER: session.session.hex()}
    signed = {**named, **sign_headers(READER, "GET", gateway.host, PATH, named, payload=b""), **UPGRADE}
    statuses = []
    with connected(session):
        for _ in range(2):
            with closing(gateway.connect()) as connection:
                connection.request("GET", PATH, headers=signed)
                with connection.getresponse() as response:
                    statuses.append(response.status)
    assert statuses == [101, 403]


def test_another_session_of_the_same_client(gateway: GatewayProcess, stored: Stored) -> None:
    session, other = open_session(gateway), open_session(gateway)
    with connected(session), connected(other), control_of(gateway, session.session) as control:
        assert type(error_of(control.ask(in_session(stored, other)))) is SessionNotFoundError


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", RequestError),
        (control_frame(1, 1, b"")[:4] + (MAX_MESSAGE_BYTES + 1).to_bytes(4, "little") + bytes(8), EntityTooLargeError),
    ],
    ids=["garbage", "oversize"],
)
def test_what_is_no_ask_ends_it(gateway: GatewayProcess, sent: bytes, error: type[Exception]) -> None:
    session = open_session(gateway)
    with connected(session), control_of(gateway, session.session) as control:
        control.sock.sendall(sent)
        answer = control.read()
        assert answer is not None
        assert (answer.id, type(error_of(answer))) == (0, error)
        assert control.ended()


def test_what_does_not_open_one(gateway: GatewayProcess) -> None:
    session = open_session(gateway)
    assert refused(gateway, session.session, upgrade=False).status == 400
    assert refused(gateway, b"short").error["Code"] == "InvalidArgument"
    assert refused(gateway, bytes(16)).error["Code"] == "NoSuchSession"


def test_a_session_has_one_and_ends_with_it(gateway: GatewayProcess, stored: Stored) -> None:
    session = open_session(gateway)
    opened = control_of(gateway, session.session), control_of(gateway, session.session)
    with connected(session) as sock, opened[0] as first, opened[1] as second:
        assert first.ended()
        assert second.ask(in_session(stored, session)).code == 200
        sock.close()
        assert second.ended()
    assert refused(gateway, session.session).error["Code"] == "NoSuchSession"


def test_only_who_opened_the_session_may_ask(own_gateway: StartGateway, tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.toml", GRANTS)
    gateway = own_gateway(anonymous="none", access_keys=str(keys), attach_s=60.0)
    body = SessionRequest(1).encode()
    session = SessionAnswer.decode(gateway.ask("POST", f"/{BUCKET}?kv-session", body, key=READER).body)
    assert refused(gateway, session.session, OTHER).error["Code"] == "NoSuchSession"
    assert refused(gateway, session.session).error["Code"] == "AccessDenied"
    assert refused(gateway, session.session, replace(READER, secret_key="x" * 20)).status == 403
    namespace = new_namespace(LAYOUT)
    missed = namespace, prompt(namespace, 1)
    with connected(session), control_of(gateway, session.session, READER) as control:
        assert control.ask(in_session(missed, session)).code == 200

        def changed(grants: dict[str, dict[str, str]]) -> str:
            write_keys(keys, grants)
            eventually(lambda: control.ask(in_session(missed, session)).code == 403, "the keys are read anew")
            return error_of(control.ask(in_session(missed, session))).code

        assert changed(GRANTS | {"reader": {}}) == "AccessDenied"
        write_keys(keys, GRANTS)
        eventually(lambda: control.ask(in_session(missed, session)).code == 200, "the keys are read anew")
        assert changed({"other": GRANTS["other"]}) == InvalidAccessKeyIdError.code


def test_a_gateway_that_drains_refuses_and_then_ends_it(own_gateway: StartGateway) -> None:
    gateway = own_gateway(attach_s=60.0)
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, CHUNKS)
    session = open_session(gateway)
    with gateway.open(target="tcp") as cache, connected(session), control_of(gateway, session.session) as control:
        store_parts(cache, namespace, chain)
        match = cache.match(namespace, chain)
        with cache.retrieve(match) as warm:
            warm.wait(0)
        with stopped(gateway.worker_pids[0]):
            retrieval = cache.retrieve(match, options=LAYERWISE)
            gateway.signal(signal.SIGTERM)
            eventually(lambda: gateway.ask("GET", "/readyz").status == 503, "not ready any more")
            assert type(error_of(control.ask(in_session((namespace, chain), session)))) is DrainingError
        retrieval.close()
        assert control.ended()
        assert gateway.wait() == 0
    assert "Traceback" not in gateway.log


def test_a_client_that_reads_nothing_is_cut_off(gateway: GatewayProcess, stored: Stored) -> None:
    session = open_session(gateway)
    with connected(session), control_of(gateway, session.session) as control:
        control.sock.settimeout(5.0)
        with pytest.raises(ConnectionError):
            _ask_on_and_on(control)


def _ask_on_and_on(control: RawControl) -> None:
    """Far more answers than sockets hold."""
    for _ in range(1_000_000):
        control.sock.sendall(control_frame(99, 1, b""))


def test_nothing_is_left_of_them(own_gateway: StartGateway) -> None:
    gateway = own_gateway(attach_s=60.0)
    namespace = new_namespace(LAYOUT)
    missed = namespace, prompt(namespace, 1)

    def once(number: int) -> None:
        session = open_session(gateway)
        with connected(session), control_of(gateway, session.session) as control:
            control.ask(in_session(missed, session))
            if number % 2:
                control.sock.sendall(b"nonsense")
                control.read()

    once(0)
    eventually(lambda: not gateway.metric("objectcache_sessions"), "the session is over")
    before = held(gateway)
    for number in range(20):
        once(number)
    eventually(lambda: not gateway.metric("objectcache_sessions"), "the sessions are over")
    settles(gateway, before)
    assert "Traceback" not in gateway.log
