"""Connections that are handed to data workers: accepted here, and greeted one by one beside each other."""

from __future__ import annotations

import asyncio
import logging
import socket
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger(__name__)

BACKLOG = 512
_PAUSE_S = 0.1
"""After a connection that could not be accepted: most likely there are too many open files."""


class Listener(ABC):
    """Accepts what comes at a listening socket. Lives on the event loop."""

    def __init__(self, sock: socket.socket, kind: str) -> None:
        """`sock` listens, and is the listener's from here. `kind` of connection: what logs call it."""
        sock.setblocking(False)
        self._socket = sock
        self._kind = kind
        self._tasks: set[asyncio.Task[None]] = set()

    @abstractmethod
    async def greet(self, sock: socket.socket) -> None:
        """Read who it is, and hand it on. `sock`, which does not block, is closed afterwards. Raises nothing."""

    def start(self) -> None:
        self._spawn(self._accept())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(self._socket)
            except OSError as error:
                log.warning("a %s could not be accepted: %s", self._kind, error)
                await asyncio.sleep(_PAUSE_S)
                continue
            self._spawn(self._greeted(sock))

    async def _greeted(self, sock: socket.socket) -> None:
        with sock:
            sock.setblocking(False)
            await self.greet(sock)

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._socket.close()
