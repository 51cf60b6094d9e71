"""The control process's side of its data workers: starting, asking, and outliving them."""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
import sys
import time
from collections.abc import Callable, Sequence

from objectcache.errors import DeliveryError, DrainingError, ObjectCacheError
from objectcache.workers.channel import AsyncChannel, Message, told_error

log = logging.getLogger(__name__)

RESTART_DELAY_S = 0.2
RESTART_PATIENCE_S = 5.0
RESTART_POLL_S = 0.02


class WorkerOrderError(ObjectCacheError):
    """What a worker answered instead of a result: `error`, and the `segment` at fault where it is known."""

    def __init__(self, error: ObjectCacheError, segment: str) -> None:
        super().__init__(str(error))
        self.error = error
        self.segment = segment


Granted = Callable[[bytes, int, int, int], None]
"""Told of a session, a delivery of it, its epoch, and how many bytes its client allows in all."""


class WorkerHandle:
    """One data worker process, started again when it dies."""

    def __init__(
        self,
        on_session_lost: Callable[[bytes], None],
        on_started: Callable[[WorkerHandle], None] = lambda worker: None,
        on_granted: Granted = lambda *told: None,
    ) -> None:
        """`on_started(self)` is called whenever a process of it has been started; `on_granted` when a client has told
        it what another worker is to know."""
        self._on_session_lost = on_session_lost
        self._on_granted = on_granted
        self._on_started = on_started
        self._tags = itertools.count(1)
        self._pending: dict[int, asyncio.Future[Message]] = {}
        self._channel: AsyncChannel | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self.sessions: set[bytes] = set()
        self.led: set[bytes] = set()
        """Those of the sessions of which it sends what is not spread."""

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def load(self) -> int:
        return len(self._pending)

    @property
    def alive(self) -> bool:
        return self._channel is not None

    async def start(self) -> None:
        await self._spawn()
        self._keeper = asyncio.create_task(self._keep())

    async def _spawn(self) -> None:
        mine, theirs = socket.socketpair()
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "objectcache.workers.process",
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
            )
        self._channel = AsyncChannel(mine)
        self._on_started(self)

    async def _keep(self) -> None:
        while True:
            assert self._channel is not None
            while (message := await self._channel.receive()) is not None:
                self._take(message)
            log.error("data worker %s died; starting another", self.pid)
            self._forget()
            await asyncio.sleep(RESTART_DELAY_S)
            await self._spawn()

    def _take(self, message: Message) -> None:
        lost = message.get("lost")
        if lost is not None:
            self.sessions.discard(lost)
            self._on_session_lost(lost)
            return
        granted = message.get("granted")
        if granted is not None:
            self._on_granted(*granted)
            return
        future = self._pending.pop(message["tag"], None)
        if future is None or future.done():
            return
        error = told_error(message)
        if error is not None:
            future.set_exception(WorkerOrderError(error, message.get("segment", "")))
        else:
            future.set_result(message)

    def _forget(self) -> None:
        """Everything the worker held is gone with it."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        for future in self._pending.values():
            if not future.done():
                future.set_exception(WorkerOrderError(DeliveryError("the data worker died"), ""))
        self._pending.clear()
        for session in list(self.sessions):
            self._on_session_lost(session)
        self.sessions.clear()

    def tell(self, op: str, *, fds: Sequence[int] = (), **fields: object) -> None:
        """An order without an answer. Lost when the worker is dead: what it concerned is then gone as well."""
        if self._channel is not None:
            self._channel.send({"op": op, **fields}, fds)

    def order(self, op: str, *, fds: Sequence[int] = (), **fields: object) -> asyncio.Future[Message]:
        """An order; the future has its answer, or raises WorkerOrderError. Sent when this returns."""
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        # Nobody may be waiting any more when a delivery ends; that is not worth a warning.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        if self._channel is None:
            future.set_exception(WorkerOrderError(DeliveryError("the data worker is being restarted"), ""))
            return future
        tag = next(self._tags)
        self._pending[tag] = future
        try:
            self._channel.send({"op": op, "tag": tag, **fields}, fds)
        except OSError:  # one of `fds` was closed meanwhile
            del self._pending[tag]
            future.set_exception(WorkerOrderError(DeliveryError("the client went away"), ""))
        return future

    async def ask(self, op: str, *, fds: Sequence[int] = (), **fields: object) -> Message:
        """An order and its answer. Raises the error that the worker answered."""
        try:
            return await self.order(op, fds=fds, **fields)
        except WorkerOrderError as problem:
            raise problem.error from None

    async def stop(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        self._forget()
        if self._process is not None and self._process.returncode is None:
            try:
                await asyncio.wait_for(self._process.wait(), timeout=2.0)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()


class WorkerPool:
    """A fixed number of data workers. Not thread-safe: it lives on the event loop."""

    def __init__(
        self,
        count: int,
        on_session_lost: Callable[[bytes], None] = lambda session: None,
        on_started: Callable[[WorkerHandle], None] = lambda worker: None,
        *,
        on_granted: Granted = lambda *told: None,
    ) -> None:
        self.workers = [WorkerHandle(on_session_lost, on_started, on_granted) for _ in range(count)]

    async def start(self) -> None:
        await asyncio.gather(*(worker.start() for worker in self.workers))

    async def stop(self) -> None:
        await asyncio.gather(*(worker.stop() for worker in self.workers))

    async def living(self) -> WorkerHandle:
        """As `pick`, but waits for one that is being started again. Raises DrainingError when that takes too long."""
        until_s = time.monotonic() + RESTART_PATIENCE_S
        while not any(worker.alive for worker in self.workers):
            if time.monotonic() > until_s:
                raise DrainingError("no data worker is running; come back later")
            await asyncio.sleep(RESTART_POLL_S)
        return self.pick()

    def pick(self) -> WorkerHandle:
        """The worker with the least to do."""
        return self.idlest(1)[0]

    def idlest(self, count: int) -> list[WorkerHandle]:
        """So many, or fewer if fewer are alive, but one at least; who has the least to do comes first."""
        ranked = sorted(self.workers, key=lambda each: (not each.alive, each.load, len(each.led), len(each.sessions)))
        return ranked[: max(1, min(count, sum(worker.alive for worker in ranked)))]
