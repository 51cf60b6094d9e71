"""The control process's side of the rates process: starting it, telling it, and outliving it."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from objectcache.scheduling import Event
from objectcache.workers.board import BEAT_NS, Board
from objectcache.workers.channel import AsyncChannel
from objectcache.workers.rates import event_to_wire

log = logging.getLogger(__name__)

RESTART_DELAY_S = 0.1
WATCH_S = 0.5
STALE_S = 3.0
"""Without a sign of life for so long it hangs, and is replaced."""
END_S = 2.0


class RatesProcess:
    """One rates process, started again when it dies. Lives on the event loop."""

    def __init__(self, descriptor: int, board: Board, on_started: Callable[[], None]) -> None:
        """`descriptor` is the board's. `on_started()` is called for each process: it knows nothing yet."""
        self._descriptor = descriptor
        self._board = board
        self._on_started = on_started
        self._channel: AsyncChannel | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._started_ns = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def decides(self) -> bool:
        """Whether it is there, and has shown that it looks at the board."""
        beat_ns = self._board.head[BEAT_NS]
        return self._channel is not None and beat_ns > max(self._started_ns, time.monotonic_ns() - int(STALE_S * 1e9))

    async def start(self) -> None:
        await self._spawn()
        self._keeper = asyncio.create_task(self._keep())

    async def _spawn(self) -> None:
        mine, theirs = socket.socketpair()
        with theirs:
            fds = (theirs.fileno(), self._descriptor)
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "objectcache.workers.rates",
                *map(str, fds),
                pass_fds=fds,
                stdin=asyncio.subprocess.DEVNULL,
            )
        self._started_ns = time.monotonic_ns()
        self._channel = AsyncChannel(mine)
        self._on_started()

    async def _keep(self) -> None:
        while True:
            channel, process = self._channel, self._process
            assert channel is not None
            assert process is not None
            await self._watch(channel, process)
            log.error("the rates process %s died; starting another", process.pid)
            self._forget()
            await process.wait()
            await asyncio.sleep(RESTART_DELAY_S)
            while True:
                try:
                    await self._spawn()
                    break
                except OSError:
                    log.exception("the rates process cannot be started")
                    await asyncio.sleep(WATCH_S)

    async def _watch(self, channel: AsyncChannel, process: asyncio.subprocess.Process) -> None:
        """Until it has ended."""
        ended = asyncio.create_task(channel.receive())
        try:
            while not (await asyncio.wait({ended}, timeout=WATCH_S))[0]:
                late_ns = time.monotonic_ns() - max(self._started_ns, self._board.head[BEAT_NS])
                if late_ns > STALE_S * 1e9:
                    log.error("the rates process %s hangs", process.pid)
                    process.kill()
        finally:
            # Before the socket is closed, whose number may then be another's.
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)

    def _forget(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def tell(self, events: Sequence[Event], slots: Mapping[int, tuple[int, int]] | None = None) -> None:
        """`slots` of the deliveries that are admitted, and how many workers send them. Lost when it is dead: another
        is told everything."""
        if self._channel is not None and events:
            self._channel.send({"events": [event_to_wire(event) for event in events], "slots": dict(slots or {})})

    async def stop(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        self._forget()
        if self._process is not None and self._process.returncode is None:
            try:
                await asyncio.wait_for(self._process.wait(), END_S)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
