"""Clients that are killed, stopped, silent or confused: the gateway lets go of all that it held for them."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest

from objectcache.cache import KVCache, Match, RetrieveOptions
from objectcache.client import GatewayCache
from objectcache.descriptor import Target, TargetKind
from objectcache.frames import Frame, FrameType, hello_frame
from objectcache.testing.synthetic import LAYERWISE, check_delivery, flat_layout, new_namespace, prompt, store_parts
from objectcache.transports.sender import REAP_GRACE_S
from tests.gateway import slow_client
from tests.gateway.fixtures import ATTACH_S
from tests.gateway.process import BUCKET, GatewayProcess, eventually, resources_of
from tests.gateway.raw import ask, connected, descriptor_of, open_session

LAYERS = 16
LAYOUT = flat_layout(LAYERS, 128 << 10)
CHUNKS = 32  # 64 MiB: far more than sockets hold
TARGETS = {"tcp": Target(TargetKind.TCP, bytes(16)), "http": Target(TargetKind.HTTP)}
SLACK_S = 5.0


@pytest.fixture(scope="module")
def match(gateway: GatewayProcess) -> Match:
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, CHUNKS)
    for target in TARGETS:
        with gateway.open(target=target) as cache:
            if not cache.match(namespace, chain).tokens:
                store_parts(cache, namespace, chain)
            found = cache.match(namespace, chain)
            with cache.retrieve(found) as retrieval:
                check_delivery(retrieval, found)
    return replace(found, lease=None)  # which would expire before the last test


def held(gateway: GatewayProcess) -> dict[str, int]:
    """What a gateway and its workers hold now."""
    count = {
        "sessions": int(gateway.metric("objectcache_sessions")),
        "deliveries": int(gateway.metric("objectcache_deliveries_running")),
    }
    for name, pid in [("gateway", gateway.pid), *((f"worker {pid}", pid) for pid in gateway.worker_pids)]:
        count[f"fds of {name}"], count[f"threads of {name}"] = resources_of(pid)
    return count


@contextmanager
def everything_is_let_go(gateway: GatewayProcess, within_s: float = 10.0, tolerance: int = 0) -> Iterator[None]:
    """After the block the gateway holds no more than before."""
    eventually(lambda: not held(gateway)["sessions"], "sessions of earlier tests are over", ATTACH_S + SLACK_S)
    before = held(gateway)
    yield

    def too_much() -> dict[str, int]:
        return {name: count - before[name] for name, count in held(gateway).items() if count > before[name] + tolerance}

    try:
        eventually(lambda: not too_much(), "everything is let go", within_s)
    except AssertionError as error:
        raise AssertionError(f"{error}: {too_much()} more than before") from None
    assert "Traceback" not in gateway.log


@contextmanager
def hanging_client(
    gateway: GatewayProcess, match: Match, target: str, deadline_s: float
) -> Iterator[subprocess.Popen[bytes]]:
    """A client that has got a part of a delivery and takes no more."""
    descriptor = descriptor_of(match, target=TARGETS[target], deadline_s=deadline_s)
    command = [sys.executable, slow_client.__file__, str(gateway.port), BUCKET]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(descriptor.encode().hex().encode() + b"\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"reading\n"
            yield process
        finally:
            process.kill()


def used(cache: KVCache) -> int:
    """Bytes of destinations that are not free."""
    assert isinstance(cache, GatewayCache)
    usage = cache.pool.usage()
    return usage.in_use_bytes + usage.quarantined_bytes


def serves(gateway: GatewayProcess, match: Match, target: str) -> None:
    with gateway.open(target=target) as cache, cache.retrieve(match, options=LAYERWISE) as retrieval:
        check_delivery(retrieval, match)


@pytest.mark.parametrize("target", TARGETS)
def test_a_client_that_is_killed_in_mid_delivery(gateway: GatewayProcess, match: Match, target: str) -> None:
    failed = gateway.metric("objectcache_deliveries_total", outcome="failed")
    with everything_is_let_go(gateway), hanging_client(gateway, match, target, deadline_s=600) as process:
        assert gateway.metric("objectcache_deliveries_running") == 1
        process.kill()
    assert gateway.metric("objectcache_deliveries_total", outcome="failed") == failed + 1
    serves(gateway, match, target)


@pytest.mark.parametrize("target", TARGETS)
def test_a_client_that_is_stopped_and_never_closes(gateway: GatewayProcess, match: Match, target: str) -> None:
    bound_s = 1.0 + REAP_GRACE_S + SLACK_S
    with ExitStack() as clients:
        with everything_is_let_go(gateway, within_s=bound_s):
            process = clients.enter_context(hanging_client(gateway, match, target, deadline_s=1.0))
            os.kill(process.pid, signal.SIGSTOP)
            if target == "tcp":
                # Its control connection is idle and open, as one may be: not the delivery's.
                eventually(lambda: gateway.metric("objectcache_deliveries_running") == 0, "given up", bound_s)
                eventually(lambda: gateway.metric("objectcache_sessions") == 0, "and its session", bound_s)
                process.kill()
        assert target == "tcp" or process.poll() is None
    serves(gateway, match, target)


def test_clients_that_open_a_session_and_are_never_heard_of_again(gateway: GatewayProcess, match: Match) -> None:
    """Not connected at all; with a delivery asked for; and with one of two connections, also silent."""
    within_s = ATTACH_S + SLACK_S
    with everything_is_let_go(gateway, within_s), ExitStack() as connections:
        open_session(gateway)
        for streams, connect in ((1, False), (2, True)):
            session = open_session(gateway, streams)
            if connect:
                connections.enter_context(connected(session))
            target = Target(TargetKind.TCP, session.session)
            body = descriptor_of(match, target=target, deadline_s=1.0).encode()
            assert ask(gateway, "kv-retrieve", body).status == 200
        assert gateway.metric("objectcache_sessions") == 3
        silent = connections.enter_context(connected(session, b"OCF1"))
        assert silent.recv(1) == b"", "without a hello it is closed"
        eventually(lambda: not gateway.metric("objectcache_sessions"), "sessions are given up", within_s)
        eventually(lambda: not gateway.metric("objectcache_deliveries_running"), "and what they waited for")
    serves(gateway, match, "tcp")


WRONG_HELLOS = {
    "garbage": secrets.token_bytes(64),
    "HTTP": b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n".ljust(64),
    "another frame": Frame(FrameType.CREDIT, 1, 0).encode(),
    "an unknown session": hello_frame(secrets.token_bytes(16), 0),
}


@pytest.mark.parametrize("hello", WRONG_HELLOS.values(), ids=WRONG_HELLOS.keys())
def test_a_connection_that_says_something_else(gateway: GatewayProcess, match: Match, hello: bytes) -> None:
    with everything_is_let_go(gateway):
        session = open_session(gateway)
        with connected(session, hello) as wrong:
            assert wrong.recv(1) == b""
        with connected(session, hello_frame(session.session, 1)) as beyond:
            assert beyond.recv(1) == b""
        with connected(session):  # the session itself is none the worse for it, and ends with its connection
            target = Target(TargetKind.TCP, session.session)
            assert ask(gateway, "kv-retrieve", descriptor_of(match, target=target).encode()).status == 200


@pytest.mark.parametrize(
    "garbage", [secrets.token_bytes(64), hello_frame(bytes(16), 0)], ids=["garbage", "hello again"]
)
def test_a_receiver_that_says_garbage_after_its_hello(gateway: GatewayProcess, match: Match, garbage: bytes) -> None:
    with everything_is_let_go(gateway):
        session = open_session(gateway)
        with connected(session) as sock:
            target = Target(TargetKind.TCP, session.session)
            assert (
                ask(gateway, "kv-retrieve", descriptor_of(match, target=target, credit_bytes=1).encode()).status == 200
            )
            sock.sendall(garbage)
            while sock.recv(1 << 20):
                pass  # until it hangs up


def test_a_hundred_deliveries_leave_nothing_behind(gateway: GatewayProcess, match: Match) -> None:
    """Of gateway, workers and this process; both targets, complete and closed early."""
    with ExitStack() as caches:
        opened = [caches.enter_context(gateway.open(target=target)) for target in TARGETS]
        for cache in opened:
            with cache.retrieve(match, options=LAYERWISE) as retrieval:
                check_delivery(retrieval, match)
    mine = resources_of(os.getpid())
    with everything_is_let_go(gateway, tolerance=2), ExitStack() as caches:
        opened = [caches.enter_context(gateway.open(target=target)) for target in TARGETS]
        complete = 0
        for number in range(100):
            cache = opened[number % 2]
            options = RetrieveOptions(layers_per_unit=(1, LAYERS)[number // 2 % 2])
            with cache.retrieve(match, options=options) as retrieval:
                if number // 4 % 2:
                    retrieval.wait(LAYERS - 1)
                    complete += retrieval.complete
                elif number // 8 % 2:
                    retrieval.wait(0)
        assert complete >= 40
        eventually(lambda: not any(map(used, opened)), "the destinations are free again")
    eventually(
        lambda: all(now <= before + 2 for now, before in zip(resources_of(os.getpid()), mine, strict=True)),
        f"this process holds no more than before: {mine}",
    )
