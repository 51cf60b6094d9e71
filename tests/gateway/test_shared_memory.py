"""Who may share memory with a gateway, and what memory: everything else is refused by name, and changes nothing."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from objectcache.buffers import SEALS, BufferPool
from objectcache.cache import Match
from objectcache.descriptor import Target, TargetKind
from objectcache.errors import (
    DescriptorError,
    GatewayUnavailableError,
    ObjectCacheError,
    SessionNotFoundError,
    SharedMemoryRefusedError,
)
from objectcache.frames import FRAME_HEADER_BYTES, FrameType, decode_error, decode_frame, hello_frame
from objectcache.gateway.shared_memory import check_user, user_of
from objectcache.messages import SessionAnswer
from objectcache.testing.synthetic import flat_layout, new_namespace, prompt, retrieve_and_check, store_parts
from objectcache.transports.shared_memory import check_memory
from objectcache.transports.sockets import recv_exact
from tests.gateway.process import PATIENCE_S, GatewayProcess, eventually, resources_of
from tests.gateway.raw import ask, connected, descriptor_of, open_session

POOL_BYTES = 1 << 20
LAYOUT = flat_layout(2, 1000)
CHUNKS = 2


def memory_file(size_bytes: int = POOL_BYTES, seals: int = SEALS, flags: int = os.MFD_ALLOW_SEALING) -> int:
    descriptor = os.memfd_create("test", flags | os.MFD_CLOEXEC)
    os.ftruncate(descriptor, size_bytes)
    if flags & os.MFD_ALLOW_SEALING:
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


@contextmanager
def greeted(session: SessionAnswer, fds: Sequence[int], hello: bytes | None = None) -> Iterator[socket.socket]:
    """A connection that has said hello. Raises what the gateway answers, if it is not hello."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(PATIENCE_S)
        sock.connect(f"\0{session.shm_socket}")
        sent = hello_frame(session.session, 0) if hello is None else hello
        if fds:
            socket.send_fds(sock, [sent], fds)
        else:
            sock.sendall(sent)
        head = memoryview(bytearray(FRAME_HEADER_BYTES))
        recv_exact(sock, head)
        frame = decode_frame(head)
        if frame.type is FrameType.ERROR:
            payload = memoryview(bytearray(frame.data_bytes))
            recv_exact(sock, payload)
            raise decode_error(payload)
        assert frame.type is FrameType.HELLO
        yield sock


def refused(session: SessionAnswer, fds: Sequence[int], hello: bytes | None = None) -> ObjectCacheError:
    with pytest.raises(ObjectCacheError) as error, greeted(session, fds, hello):
        pass
    return error.value


@pytest.fixture
def match(gateway: GatewayProcess) -> Match:
    namespace = new_namespace(LAYOUT)
    with gateway.open(target="http") as cache:
        store_parts(cache, namespace, prompt(namespace, CHUNKS))
        return retrieve_and_check(cache, namespace, prompt(namespace, CHUNKS))


# -- what memory ------------------------------------------------------------------------------------

WRONG = {
    "no seals": lambda: memory_file(seals=0),
    "may shrink": lambda: memory_file(seals=fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL),
    "may be sealed further": lambda: memory_file(seals=fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK),
    "cannot be written": lambda: memory_file(seals=SEALS | fcntl.F_SEAL_WRITE),
    "cannot be sealed": lambda: memory_file(flags=0),
    "empty": lambda: memory_file(0),
    "no memory at all": lambda: os.open(os.devnull, os.O_RDWR),
}


@pytest.mark.parametrize("make", WRONG.values(), ids=WRONG.keys())
def test_memory_that_is_not_sealed_right_is_refused(gateway: GatewayProcess, make: object) -> None:
    assert callable(make)
    descriptor = make()
    try:
        with pytest.raises(SharedMemoryRefusedError):
            check_memory(descriptor)
        session = open_session(gateway)
        assert isinstance(refused(session, [descriptor]), SharedMemoryRefusedError)
        # The session is as it was: the right memory is taken, or TCP.
        with connected(session) as sock:
            assert sock.fileno() >= 0
    finally:
        os.close(descriptor)


def test_the_pool_of_a_client_is_taken() -> None:
    pool = BufferPool(POOL_BYTES)
    assert check_memory(pool.fileno()) == pool.size_bytes
    with pytest.raises(OSError):
        os.ftruncate(pool.fileno(), 0)
    pool.close()


def test_memory_comes_with_the_first_connection_and_only_there(gateway: GatewayProcess) -> None:
    session = open_session(gateway, 2)
    descriptor = memory_file()
    before = resources_of(gateway.pid)[0]
    assert isinstance(refused(session, []), SharedMemoryRefusedError)
    assert isinstance(refused(session, [descriptor, descriptor]), SharedMemoryRefusedError)
    with greeted(session, [descriptor]):
        assert isinstance(refused(session, [descriptor]), SharedMemoryRefusedError)
        with greeted(session, [], hello_frame(session.session, 1)):
            pass
    eventually(lambda: resources_of(gateway.pid)[0] <= before, "descriptors are closed")
    os.close(descriptor)


def test_a_destination_must_lie_in_the_memory(gateway: GatewayProcess, match: Match) -> None:
    session = open_session(gateway)
    descriptor = memory_file(8192)
    with greeted(session, [descriptor]) as sock:
        for offset in (1, 4096, 8192, 1 << 40):  # two layers of 2000 bytes begin at pages
            target = Target(TargetKind.SHM, session.session, offset)
            answer = ask(gateway, "kv-retrieve", descriptor_of(match, target=target).encode())
            assert (answer.status, answer.error["Code"]) == (400, DescriptorError.code)
        target = Target(TargetKind.SHM, session.session, 0)
        assert ask(gateway, "kv-retrieve", descriptor_of(match, target=target).encode()).status == 200
        head = memoryview(bytearray(FRAME_HEADER_BYTES))
        recv_exact(sock, head)
        assert decode_frame(head).type is FrameType.PLACED
    os.close(descriptor)


def test_a_session_has_one_target(gateway: GatewayProcess, match: Match) -> None:
    session = open_session(gateway)
    over_tcp = descriptor_of(match, target=Target(TargetKind.TCP, session.session)).encode()
    over_shm = descriptor_of(match, target=Target(TargetKind.SHM, session.session)).encode()
    assert ask(gateway, "kv-retrieve", over_shm).error["Code"] == DescriptorError.code
    descriptor = memory_file()
    with greeted(session, [descriptor]):
        assert ask(gateway, "kv-retrieve", over_tcp).error["Code"] == DescriptorError.code
        with connected(session) as sock:
            assert sock.recv(1) == b""
    session = open_session(gateway)
    over_tcp = descriptor_of(match, target=Target(TargetKind.TCP, session.session)).encode()
    assert ask(gateway, "kv-retrieve", over_tcp).status == 200
    assert isinstance(refused(session, [descriptor]), DescriptorError)
    os.close(descriptor)


# -- who --------------------------------------------------------------------------------------------


def test_only_an_open_session_is_joined(gateway: GatewayProcess) -> None:
    session = open_session(gateway)
    descriptor = memory_file()
    other = hello_frame(bytes(16), 0)
    beyond = hello_frame(session.session, 1)
    for hello in (other, beyond):
        assert isinstance(refused(session, [descriptor], hello), SessionNotFoundError)
    os.close(descriptor)


def test_noise_is_no_hello(gateway: GatewayProcess) -> None:
    session = open_session(gateway)
    for noise in (bytes(FRAME_HEADER_BYTES), os.urandom(FRAME_HEADER_BYTES)):
        assert isinstance(refused(session, [], noise), ObjectCacheError)


OTHER_USER = """
import os, socket, sys
os.setuid(65534)
with socket.socket(socket.AF_UNIX) as sock:
    sock.settimeout(20)
    sock.connect(chr(0) + sys.argv[1])
    try:
        socket.send_fds(sock, [bytes.fromhex(sys.argv[2])], [int(sys.argv[3])])
    except BrokenPipeError:
        pass  # the answer has come already
    sys.stdout.buffer.write(sock.recv(1 << 16))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_user_is_refused(gateway: GatewayProcess) -> None:
    session = open_session(gateway)
    descriptor = memory_file()
    hello = hello_frame(session.session, 0).hex()
    command = [sys.executable, "-c", OTHER_USER, session.shm_socket, hello, str(descriptor)]
    ended = subprocess.run(command, capture_output=True, timeout=60, check=True, pass_fds=[descriptor])
    os.close(descriptor)
    answer = ended.stdout
    frame = decode_frame(answer[:FRAME_HEADER_BYTES])
    assert frame.type is FrameType.ERROR
    assert isinstance(decode_error(answer[FRAME_HEADER_BYTES:]), SharedMemoryRefusedError)


def test_users() -> None:
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        assert user_of(one) == os.geteuid()
    check_user(7, {0, 7})
    with pytest.raises(SharedMemoryRefusedError):
        check_user(8, {0, 7})


def test_a_client_that_vanishes_after_its_hello(gateway: GatewayProcess) -> None:
    before = resources_of(gateway.pid)[0]
    descriptor = memory_file()
    for _ in range(3):
        with greeted(open_session(gateway), [descriptor]):
            pass
    os.close(descriptor)
    eventually(lambda: resources_of(gateway.pid)[0] <= before, "descriptors are closed")
    eventually(lambda: gateway.metric("objectcache_sessions") == 0, "sessions end")


def test_a_name_that_nobody_has(gateway: GatewayProcess) -> None:
    with pytest.raises((ConnectionRefusedError, GatewayUnavailableError)), socket.socket(socket.AF_UNIX) as sock:
        sock.connect(f"\0{open_session(gateway).shm_socket}-")
