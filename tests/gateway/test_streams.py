"""Data connections that come twice, too late, or not at all."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

from objectcache.cache import Match
from objectcache.descriptor import Target, TargetKind
from objectcache.frames import FRAME_HEADER_BYTES, FrameType, decode_frame, hello_frame
from objectcache.messages import SessionAnswer
from objectcache.testing.synthetic import flat_layout, new_namespace, prompt, retrieve_and_check, store_parts
from tests.gateway.process import GatewayProcess, eventually, resources_of
from tests.gateway.raw import ask, connected, descriptor_of, open_session

CHUNKS = 4


@pytest.fixture(scope="module")
def match(gateway: GatewayProcess) -> Match:
    namespace = new_namespace(flat_layout(3, 1000))
    with gateway.open() as cache:
        store_parts(cache, namespace, prompt(namespace, CHUNKS))
        return cache.match(namespace, prompt(namespace, CHUNKS))


def is_open(sock: socket.socket, within_s: float) -> bool:
    """Nobody hangs up within that time, or says anything."""
    sock.settimeout(within_s)
    try:
        return sock.recv(1) != b""
    except TimeoutError:
        return True
    except ConnectionResetError:
        return False


def ask_for_all(gateway: GatewayProcess, match: Match, session: SessionAnswer) -> int:
    """The status of the answer to a descriptor for that session."""
    target = Target(TargetKind.TCP, session.session)
    return ask(gateway, "kv-retrieve", descriptor_of(match, target=target, lease=b"").encode()).status


def read_to_last_word(sock: socket.socket) -> FrameType:
    """Read frames to the end of the delivery on this stream."""
    sock.settimeout(10.0)
    with sock.makefile("rb") as stream:
        while True:
            frame = decode_frame(stream.read(FRAME_HEADER_BYTES))
            if frame.type is not FrameType.DATA:
                return frame.type
            stream.read(frame.extra * 16 + frame.data_bytes)


def test_a_stream_that_comes_twice_is_turned_away_and_the_first_serves(gateway: GatewayProcess, match: Match) -> None:
    session = open_session(gateway, streams=1)
    with connected(session) as first:
        assert is_open(first, 0.2)
        for _ in range(3):
            with connected(session) as second:
                assert not is_open(second, 5.0)
        assert ask_for_all(gateway, match, session) == 200
        assert read_to_last_word(first) is FrameType.END
    eventually(lambda: gateway.metric("objectcache_sessions") == 0, "the session ends with its client")


@pytest.mark.parametrize("stream", [1, 63, (1 << 32) - 1])
def test_a_stream_beyond_the_sessions_is_turned_away(gateway: GatewayProcess, stream: int) -> None:
    session = open_session(gateway, streams=1)
    with connected(session), connected(session, hello_frame(session.session, stream)) as odd:
        assert not is_open(odd, 5.0)


def test_streams_of_a_session_that_has_ended_are_turned_away(gateway: GatewayProcess) -> None:
    session = open_session(gateway, streams=2)
    with connected(session):
        pass
    eventually(lambda: gateway.metric("objectcache_sessions") == 0, "the session ends with its first stream")
    with connected(session, hello_frame(session.session, 1)) as late:
        assert not is_open(late, 5.0)


def test_a_delivery_that_was_asked_for_before_the_streams_came(gateway: GatewayProcess, match: Match) -> None:
    session = open_session(gateway, streams=2)
    assert ask_for_all(gateway, match, session) == 200
    with connected(session) as first, connected(session, hello_frame(session.session, 1)) as second:
        assert {read_to_last_word(first), read_to_last_word(second)} == {FrameType.END}


def test_many_connections_that_come_and_go_leave_nothing(gateway: GatewayProcess, match: Match) -> None:
    (worker,) = gateway.worker_pids
    with gateway.open(streams=2) as cache:
        retrieve_and_check(cache, match.namespace, prompt(match.namespace, CHUNKS))
    eventually(lambda: gateway.metric("objectcache_sessions") == 0, "no session is left of before")
    before = [resources_of(pid) for pid in (gateway.pid, worker)]
    for _ in range(10):
        session = open_session(gateway, streams=8)
        with ExitStack() as stack:
            for stream in (0, 1, 0, 7, 1, 99):
                stack.enter_context(connected(session, hello_frame(session.session, stream)))

    def as_before() -> bool:
        now = [resources_of(pid) for pid in (gateway.pid, worker)]
        return all(a <= b + 2 for held, had in zip(now, before, strict=True) for a, b in zip(held, had, strict=True))

    eventually(as_before, f"descriptors and threads as before: {before}")
    assert gateway.worker_pids == [worker]
    with gateway.open(streams=2) as cache:
        retrieve_and_check(cache, match.namespace, prompt(match.namespace, CHUNKS))
