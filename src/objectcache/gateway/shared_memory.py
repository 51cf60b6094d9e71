"""Connections of clients on this host, which share their memory: from a Unix socket into data workers.

The socket has an abstract name, made anew at each start: there is no file that could be left behind or be replaced, and
nobody finds it but through a signed request to this very gateway. It is seen in the gateway's network namespace only.
Who connects is told by the kernel (SO_PEERCRED).
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Collection
from contextlib import suppress
from struct import Struct

from objectcache.descriptor import TargetKind
from objectcache.errors import ObjectCacheError, SharedMemoryRefusedError
from objectcache.frames import FRAME_HEADER_BYTES, PREFAULTED, Frame, decode_frame, error_frame, hello_frame
from objectcache.gateway.listener import BACKLOG, Listener
from objectcache.gateway.sessions import SessionTable
from objectcache.transports.shared_memory import check_memory

log = logging.getLogger(__name__)

_CREDENTIALS = Struct("iII")
"""Of the peer: process, user, group."""
_MAX_FDS = 4


class SharedMemoryListener(Listener):
    """Accepts connections, reads who they are, and hands them to the session's workers."""

    def __init__(self, sessions: SessionTable, users: Collection[int], *, hello_s: float) -> None:
        """`users`: numbers of those who may connect, beside this process's own. `hello_s`: how long one may take to say
        whose it is."""
        self.name = f"objectcache-{secrets.token_hex(16)}"
        self._users = {os.geteuid(), *users}
        self._hello_s = hello_s
        self._sessions = sessions
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(f"\0{self.name}")
        sock.listen(BACKLOG)
        super().__init__(sock, "connection for shared memory")

    async def greet(self, sock: socket.socket) -> None:
        fds: list[int] = []
        try:
            check_user(user_of(sock), self._users)
            hello = decode_frame(await asyncio.wait_for(_receive_hello(sock, fds), self._hello_s))
            await self._admit(sock, hello, fds)
        except ObjectCacheError as error:
            log.info("a connection for shared memory was refused: %s", error)
            with suppress(OSError, TimeoutError):
                refusal = asyncio.get_running_loop().sock_sendall(sock, error_frame(0, 0, error))
                await asyncio.wait_for(refusal, self._hello_s)
        except (OSError, TimeoutError) as error:
            log.info("a connection for shared memory said no hello: %s", error)
        finally:
            for fd in fds:
                os.close(fd)

    async def _admit(self, sock: socket.socket, hello: Frame, fds: list[int]) -> None:
        """Raises RequestError, and nothing has been done then."""
        session = self._sessions.greeted(hello)
        shares = session.kind is TargetKind.SHM
        if shares == bool(fds) or (not shares and len(fds) != 1):
            raise SharedMemoryRefusedError("the first connection of a session brings the memory, and no other one does")
        memory_bytes = check_memory(fds[0]) if fds else session.memory_bytes
        session.claim(TargetKind.SHM)
        if fds:
            session.memory_bytes = memory_bytes
            prefaulted = bool(hello.flags & PREFAULTED)
            session.carriers.share(fds[0], prefaulted=prefaulted)
        session.attached += 1
        # Before a worker has it: after this, it writes.
        sock.send(hello_frame(session.id, hello.first_chunk))
        session.carriers.attach(hello.first_chunk, sock.fileno())


def user_of(sock: socket.socket) -> int:
    """The user at the other end of a Unix socket, when it connected."""
    _, user, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(user)


def check_user(user: int, allowed: Collection[int]) -> None:
    """Raises SharedMemoryRefusedError."""
    if user not in allowed:
        raise SharedMemoryRefusedError(
            f"user {user} may not share memory with this gateway: its own user may, and those in shared_memory_users"
        )


async def _receive_hello(sock: socket.socket, fds: list[int]) -> bytes:
    """The first frame; descriptors that came with it are added to `fds`. Raises OSError."""
    data = b""
    while len(data) < FRAME_HEADER_BYTES:
        await _readable(sock)
        try:
            more, found, _, _ = socket.recv_fds(sock, FRAME_HEADER_BYTES - len(data), _MAX_FDS)
        except BlockingIOError:
            continue
        fds += found
        if not more:
            raise ConnectionError("closed before hello")
        data += more
    return data


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock)
