"""A client's control stream: used where it can be, HTTP where not, and nobody is left in doubt when it breaks."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from objectcache.client.abilities import Ability
from objectcache.client.control import ControlStream
from objectcache.client.endpoint import Endpoint
from objectcache.client.http import GatewayHttp
from objectcache.errors import DeliveryTimeoutError, DrainingError, GatewayUnavailableError
from objectcache.messages import Asked
from objectcache.messages.control import control_frame
from objectcache.s3 import error_body
from tests.client.asking import TARGETS, Requests, all_is_free, load, open_cache
from tests.client.test_one_trip import CHUNKS, stored
from tests.gateway.fixtures import StartGateway
from tests.gateway.process import GatewayProcess
from tests.gateway.test_tls import certificate

__all__ = ["certificate"]
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: kv-control\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nby"
in_sessions = pytest.mark.parametrize("options", [t for t in TARGETS if t["target"] != "http"], ids=str)


@pytest.fixture
def by_http(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked by HTTP."""
    asked: list[str] = []
    start = GatewayHttp.start

    def spying(http: GatewayHttp, method: str, path: str, *args: Any, **how: Any) -> Any:
        asked.append(path.partition("?")[2])
        return start(http, method, path, *args, **how)

    monkeypatch.setattr(GatewayHttp, "start", spying)
    return asked


@in_sessions
def test_loads_go_over_it(gateway: GatewayProcess, by_http: list[str], options: dict[str, Any]) -> None:
    with open_cache(gateway, options) as cache:
        namespace, chain = stored(cache)
        load(cache, namespace, chain)
        by_http.clear()
        for _ in range(3):
            assert load(cache, namespace, chain) == CHUNKS * 16
        assert not by_http
        all_is_free(cache)


def test_it_goes_through_tls(own_gateway: StartGateway, certificate: dict[str, str], by_http: list[str]) -> None:
    gateway = own_gateway(**certificate, plain_data=True, shared_memory=False)
    with open_cache(gateway, {"target": "tcp"}) as cache:
        namespace, chain = stored(cache)
        load(cache, namespace, chain)
        by_http.clear()
        assert load(cache, namespace, chain) == CHUNKS * 16
        assert not by_http
        all_is_free(cache)
    assert gateway.stop() == 0
    assert "Traceback" not in gateway.log


def test_who_finds_it_in_use_asks_by_http(gateway: GatewayProcess, by_http: list[str]) -> None:
    with open_cache(gateway, TARGETS[0]) as cache:
        namespace, chain = stored(cache)
        load(cache, namespace, chain)
        by_http.clear()
        session = cache._session
        assert session is not None
        with session.control._lock:
            assert load(cache, namespace, chain) == CHUNKS * 16
        assert by_http == ["kv-match-and-retrieve"]
        assert load(cache, namespace, chain) == CHUNKS * 16
        assert by_http == ["kv-match-and-retrieve"]


def test_one_that_ends_while_nobody_asks_is_left_for_a_while(
    gateway: GatewayProcess, by_http: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_cache(gateway, TARGETS[0]) as cache:
        namespace, chain = stored(cache)
        load(cache, namespace, chain)
        assert cache._session is not None
        connection = cache._session.control._connection
        assert connection is not None
        connection.sock.shutdown(socket.SHUT_RDWR)
        by_http.clear()
        for _ in range(2):
            assert load(cache, namespace, chain) == CHUNKS * 16
        assert by_http == ["kv-match-and-retrieve"] * 2
        monkeypatch.setattr("objectcache.client.abilities.AGAIN_S", 0.0)
        assert load(cache, namespace, chain) == CHUNKS * 16
        assert len(by_http) == 2


def test_one_that_breaks_over_an_ask_costs_a_second_one(
    gateway: GatewayProcess, requests: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a new session: what the first one accepted is cancelled."""
    with open_cache(gateway, TARGETS[0]) as cache:
        namespace, chain = stored(cache)
        load(cache, namespace, chain)
        session = cache._session

        def broken(stream: ControlStream, connection: Any) -> Any:
            monkeypatch.undo()
            raise ConnectionError("broken")

        monkeypatch.setattr(ControlStream, "_receive", broken)
        assert load(cache, namespace, chain) == CHUNKS * 16
        assert cache._session is not session
        all_is_free(cache)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Requests:
    return Requests(monkeypatch)


# -- against who is no gateway of ours ------------------------------------------------------------


@contextmanager
def other_side(*answers: bytes | None) -> Iterator[tuple[ControlStream, Ability]]:
    """A server that answers so what comes, whatever it is, one after the other; None: it closes the connection. A
    connection that is new goes on with the next answer; the last one stays open."""
    left = list(answers)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while left:
                with suppress(OSError), server.accept()[0] as sock:  # who asks may be gone, and so may we
                    while left and sock.recv(1 << 16):
                        answer = left.pop(0)
                        if answer is None:
                            break
                        sock.sendall(answer)
                        if not left:
                            over.wait(5.0)
                if over.is_set():
                    return

        over = threading.Event()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        ability = Ability()
        http = GatewayHttp(Endpoint("127.0.0.1", server.getsockname()[1]), timeout_s=2.0)
        control = ControlStream(http, "bucket", bytes(16), ability)
        try:
            yield control, ability
        finally:
            control.close()
            http.close()
            over.set()
            server.shutdown(socket.SHUT_RDWR)  # it may still accept
            thread.join(5.0)


def ask(control: ControlStream, meanwhile: Callable[[], None] | None = None, timeout_s: float = 1.0) -> bytes:
    return control.ask(Asked.MATCH_AND_RETRIEVE, "/bucket?x", b"body", timeout_s=timeout_s, meanwhile=meanwhile)


def test_meanwhile_is_called_before_the_answer() -> None:
    called: list[str] = []
    with other_side(SWITCHED, control_frame(200, 1, b"answer"), control_frame(200, 2, b"next")) as (control, _):
        assert ask(control, lambda: called.append("meanwhile")) == b"answer"
        assert called == ["meanwhile"]
        assert ask(control) == b"next"


@pytest.mark.parametrize(
    "answer",
    [None, b"HTTP/1.1 200 OK\r\n\r\n", control_frame(200, 9, b"to something else"), control_frame(200, 0, b"")],
    ids=["end", "http", "other", "nothing"],
)
def test_nobody_knows_whether_it_was_accepted(answer: bytes | None) -> None:
    """And the next ones go by HTTP: what is on the way may let nothing else through."""
    with other_side(SWITCHED, answer) as (control, ability):
        with pytest.raises(GatewayUnavailableError):
            ask(control)
        assert control._connection is None
        assert not ability.expected(time.monotonic())


@pytest.mark.parametrize("proven", [True, False])
def test_no_answer_in_time(proven: bool) -> None:
    """A gateway may be slow; what has never carried an answer may be no gateway."""
    answers = [SWITCHED, *([control_frame(200, 1, b"answer")] if proven else []), b""]
    with other_side(*answers) as (control, ability):
        if proven:
            assert ask(control) == b"answer"
        begun_s = time.monotonic()
        with pytest.raises(DeliveryTimeoutError):
            ask(control, timeout_s=0.2)
        assert time.monotonic() - begun_s < 0.8
        assert control._connection is None, "what comes late is nobody's"
        assert ability.expected(time.monotonic()) is proven


def test_each_ask_has_its_own_time() -> None:
    with other_side(SWITCHED, control_frame(200, 1, b"answer"), b"") as (control, _):
        assert ask(control, timeout_s=0.2) == b"answer"
        sock = control._connection
        assert sock is not None
        begun_s = time.monotonic()
        with pytest.raises(DeliveryTimeoutError):
            ask(control, timeout_s=0.6)
        assert time.monotonic() - begun_s > 0.5


def test_opening_takes_of_the_time_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is in a hurry learns nothing of the gateway; who is not asks by HTTP in time."""
    with other_side(b"") as (control, ability):
        begun_s = time.monotonic()
        with pytest.raises(DeliveryTimeoutError):
            ask(control, timeout_s=0.2)
        assert time.monotonic() - begun_s < 0.8
        assert ability.expected(time.monotonic())
    monkeypatch.setattr("objectcache.client.control.OPEN_S", 0.2)
    with other_side(b"") as (control, ability):
        begun_s = time.monotonic()
        with pytest.raises(DeliveryTimeoutError):
            ask(control, timeout_s=0.6)
        assert time.monotonic() - begun_s < 0.8
        assert not ability.expected(time.monotonic())


def test_what_is_too_large_is_asked_by_http(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which says so."""
    monkeypatch.setattr("objectcache.client.control.MAX_MESSAGE_BYTES", 3)
    with other_side(OK) as (control, _):
        assert ask(control) == b"by"


def test_errors_are_the_gateways() -> None:
    body = error_body(DrainingError("soon"), "/bucket", "1")
    status = DrainingError("").status
    with other_side(SWITCHED, control_frame(status, 1, body), control_frame(status, 0, body)) as (control, _):
        with pytest.raises(DrainingError):
            ask(control)
        assert control._connection is not None
        with pytest.raises(DrainingError):
            ask(control)
        assert control._connection is None, "that was about the stream"


@pytest.mark.parametrize(
    "answer",
    [OK, b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n", b"nonsense\r\n\r\n", None],
    ids=["proxy", "old", "nonsense", "end"],
)
def test_where_there_is_none_it_is_http(answer: bytes | None) -> None:
    called: list[str] = []
    with other_side(answer, None if answer is OK else OK, OK) as (control, ability):
        if answer is OK:  # and stays open, as far as its server goes
            with pytest.raises(GatewayUnavailableError):
                ask(control)
        assert ask(control, lambda: called.append("meanwhile")) == b"by"
        assert not ability.expected(time.monotonic())
        assert called == ["meanwhile"]


def test_what_is_raised_meanwhile_ends_it() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with other_side(SWITCHED, control_frame(200, 1, b"answer")) as (control, _):
        with pytest.raises(KeyboardInterrupt):
            ask(control, interrupted)
        assert control._connection is None


def test_closing_waits_for_nobody() -> None:
    with other_side(SWITCHED, control_frame(200, 1, b"answer"), OK) as (control, _):
        assert ask(control, control.close) == b"answer"
        assert control._connection is None
        assert ask(control) == b"by", "it is not opened again"
