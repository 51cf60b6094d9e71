"""Bandwidth: which deliveries run over which links, what the links may carry, and the process that shares it out.

Nothing of it runs while no link has a cap: deliveries are only noted. With the first cap, deliveries get slots on a
board that workers and the rates process share. While that process is not there to decide, links are shared equally
from here.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from math import inf

from objectcache.config import GatewayConfig
from objectcache.descriptor import Descriptor
from objectcache.errors import DrainingError
from objectcache.gateway.call import Call
from objectcache.gateway.carriers import Carriers
from objectcache.gateway.running import GATEWAY, Key, Running
from objectcache.messages import WindowsBatch
from objectcache.plan import Plan
from objectcache.scheduling import (
    CapChanged,
    Ended,
    Event,
    PolicyChanged,
    WeightChanged,
)
from objectcache.workers.board import SLOTS, Board, make_board
from objectcache.workers.pool import WorkerHandle, WorkerPool
from objectcache.workers.rates_process import RatesProcess

MOST_OF_ONE = SLOTS // 4
"""Deliveries of one access key that may be under way: there are to be slots for others."""


class Bandwidth:
    """Lives on the event loop. `caps` are bytes a second by link, or by pattern of links."""

    def __init__(self, config: GatewayConfig, pool: WorkerPool) -> None:
        self.caps: dict[str, float] = dict(config.link_bandwidths)
        if config.bandwidth is not None:
            self.caps[GATEWAY] = config.bandwidth * config.share
        self.policy = config.policy
        self.weights = dict(config.tenant_weights)
        self.tenant_bytes: Counter[str] = Counter()
        self.corrections = 0
        self._pool = pool
        self._running: dict[int, Running] = {}
        self._untold: set[int] = set()
        """Deliveries that the rates process is about to be told of."""
        self._by_tenant: Counter[str] = Counter()
        self._changing = asyncio.Lock()
        self._by_key: dict[Key, Running] = {}
        self._crossing: Counter[str] = Counter()
        self._told: dict[str, float] = {}
        self._numbers = itertools.count(1)
        self._free = deque(range(SLOTS))
        self._descriptor = -1
        self.board: Board | None = None
        self._process: RatesProcess | None = None

    async def start(self) -> None:
        if self.caps:
            await self._begin()

    async def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await process.stop()

    def close(self) -> None:
        """After the workers have ended."""
        if self.board is not None:
            self.board.close()
            self.board = None
            os.close(self._descriptor)

    @property
    def rates_pid(self) -> int | None:
        return self._process.pid if self._process else None

    def greet(self, worker: WorkerHandle) -> None:
        """A process of `worker` has been started."""
        if self.board is not None:
            worker.tell("board", fds=[self._descriptor])

    async def _begin(self) -> None:
        """The first cap: what runs already is paced from now on."""
        if self.board is None:
            self._descriptor = make_board()
            self.board = Board(self._descriptor)
            for worker in self._pool.workers:
                self.greet(worker)
        self._process = RatesProcess(self._descriptor, self.board, self._tell_all)
        for running in self._running.values():
            if running.slot is None:
                _, number, epoch = running.key
                running.carriers.pace(number, epoch, self._place(running, inf), running.spread)
        self._share_equally()
        try:
            await self._process.start()
        except OSError:
            self._process = None  # whoever sets a cap again tries again
            raise

    async def change(
        self,
        caps: Mapping[str, float | None],
        policy: str | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        """`caps` by link or pattern, None: no cap any more; what is not named stays as it is. Raises OSError where the
        rates process cannot be started."""
        async with self._changing:
            await self._change(caps, policy, weights or {})

    async def _change(self, caps: Mapping[str, float | None], policy: str | None, weights: Mapping[str, float]) -> None:
        for link, bytes_s in caps.items():
            if bytes_s is None:
                self.caps.pop(link, None)
            else:
                self.caps[link] = bytes_s
        self.policy = policy or self.policy
        self.weights |= weights
        if not self.caps:
            self._told.clear()
            await self.stop()  # until it has ended it may write rates once more
            for running in self._running.values():
                if running.slot is not None and self.board is not None:
                    self.board.rates[running.slot] = inf
        elif self._process is None:
            await self._begin()
        else:
            now_s = time.monotonic()
            self._process.tell([*self._settings(now_s), *self._cap_events(self._crossing, now_s)])
            self._share_equally()

    # -- deliveries -------------------------------------------------------------------------------

    def admit(
        self,
        carriers: Carriers,
        spread: int,
        call: Call,
        descriptor: Descriptor,
        plan: Plan,
        expected_bytes_s: float | None = None,
    ) -> Running:
        """A delivery begins; its `slot` is for those who send it. `expected_bytes_s` as that says of its links, if it
        has just been asked. Raises DrainingError when there is no room for its rate."""
        running = Running.of(next(self._numbers), carriers, spread, call, descriptor, plan)
        if self._by_tenant[running.tenant] >= MOST_OF_ONE:
            raise DrainingError(f"{MOST_OF_ONE} deliveries of this access key are under way; come back later")
        if self._process is not None:
            expected = self.expected_bytes_s(running.links) if expected_bytes_s is None else expected_bytes_s
            running.expected_bytes_s = expected
            self._place(running, running.expected_bytes_s)
        self._running[running.number] = running
        self._by_tenant[running.tenant] += 1
        self._by_key[running.key] = running
        for link in running.links:
            self._crossing[link] += 1
        if self._process is not None and running.slot is not None:
            self._untold.add(running.number)
            # Its workers and its client are told first: it has a rate to begin with.
            asyncio.get_running_loop().call_soon(self._announce, running)
        return running

    def _announce(self, running: Running) -> None:
        """Tell the rates process of it."""
        if running.number not in self._untold:
            return
        self._untold.discard(running.number)
        if self._process is not None and running.slot is not None:
            events = [*self._cap_events(running.links, running.admitted_s), running.admitted()]
            self._process.tell(events, {running.number: (running.slot, running.spread)})
            self._share_equally()

    def _place(self, running: Running, bytes_s: float) -> int:
        """The slot that it has from now on."""
        assert self.board is not None
        if not self._free:
            raise DrainingError(f"{SLOTS} deliveries are under way; come back later")
        running.slot = self._free.popleft()
        self.board.clear(running.slot, bytes_s)
        return running.slot

    def ended(self, running: Running, sent_bytes: int) -> None:
        self.tenant_bytes[running.tenant] += sent_bytes
        self._running.pop(running.number, None)
        self._untold.discard(running.number)
        self._by_tenant[running.tenant] -= 1
        if not self._by_tenant[running.tenant]:
            del self._by_tenant[running.tenant]
        if self._by_key.get(running.key) is running:
            del self._by_key[running.key]
        self._crossing.subtract(running.links)
        gone = [link for link in running.links if self._crossing[link] <= 0]
        for link in gone:
            del self._crossing[link]
        if running.slot is not None:
            self._free.append(running.slot)
        if self._process is not None:
            now_s = time.monotonic()
            caps = [CapChanged(now_s, link, None) for link in gone if self._told.pop(link, None) is not None]
            self._process.tell([Ended(now_s, running.number), *caps])
            self._share_equally()

    def correct(self, batch: WindowsBatch, bucket: str, access_key: str) -> None:
        """What clients know better now. The access key's own deliveries only."""
        now_s = time.monotonic()
        events: list[Event] = []
        latest = {
            (asked.session or (bucket, access_key), asked.delivery, asked.epoch): asked for asked in batch.corrections
        }
        for key, asked in latest.items():
            running = self._by_key.get(key)
            if running is not None and running.tenant == access_key:
                running.correction = running.corrected(asked, now_s)
                events.append(running.correction)
        self.corrections += len(events)
        if self._process is not None:
            self._process.tell(events)

    # -- caps -------------------------------------------------------------------------------------

    def cap_of(self, link: str) -> float | None:
        """By its own name, or by the longest pattern that it fits."""
        if link in self.caps:
            return self.caps[link]
        fitting = [pattern for pattern in self.caps if _is_pattern(pattern) and fnmatchcase(link, pattern)]
        return self.caps[max(fitting, key=len)] if fitting else None

    def expected_bytes_s(self, links: Iterable[str]) -> float:
        """What a delivery over these links could have now: what nobody uses of them, or an equal share; inf: no cap."""
        least = inf
        for link in links:
            cap = self.cap_of(link)
            if cap is not None:
                least = min(least, max(cap - self.used_bytes_s(link), cap / (self._crossing[link] + 1)))
        return least

    def used_bytes_s(self, link: str) -> float:
        """The rates of all deliveries over it."""
        board = self.board
        if board is None:
            return 0.0
        crossing = (running for running in self._running.values() if link in running.links)
        rates = (board.rates[running.slot] for running in crossing if running.slot is not None)
        return sum(rate for rate in rates if rate < inf)

    def crossing(self, link: str) -> int:
        """How many deliveries do."""
        return self._crossing[link]

    @property
    def links(self) -> dict[str, float]:
        """Caps of the links that deliveries cross now, and of those that are named."""
        named = {link for link in self.caps if not _is_pattern(link)}
        found = {link: self.cap_of(link) for link in (*named, *self._crossing)}
        return {link: cap for link, cap in found.items() if cap is not None}

    def _cap_events(self, links: Iterable[str], now_s: float) -> list[Event]:
        """What the rates process does not know yet of these links."""
        events: list[Event] = []
        for link in links:
            cap = self.cap_of(link)
            if cap == self._told.get(link):
                continue
            events.append(CapChanged(now_s, link, cap))
            if cap is None:
                del self._told[link]
            else:
                self._told[link] = cap
        return events

    def _settings(self, now_s: float) -> list[Event]:
        weights = (WeightChanged(now_s, tenant, weight) for tenant, weight in self.weights.items())
        return [PolicyChanged(now_s, self.policy), *weights]

    def _tell_all(self) -> None:
        """A rates process knows nothing yet."""
        if self._process is None:
            return
        now_s = time.monotonic()
        self._told.clear()
        self._untold.clear()
        placed = [running for running in self._running.values() if running.slot is not None]
        corrections = [running.correction for running in placed if running.correction is not None]
        events = [
            *self._settings(now_s),
            *self._cap_events(list(self._crossing), now_s),
            *(running.admitted() for running in placed),
            *corrections,
        ]
        slots = {running.number: (running.slot, running.spread) for running in placed if running.slot is not None}
        self._process.tell(events, slots)

    def _share_equally(self) -> None:
        """While nobody else decides."""
        if self.board is None or (self._process is not None and self._process.decides):
            return
        caps = {link: self.cap_of(link) for link in self._crossing}
        shares = {link: (inf if cap is None else cap) / max(1, self._crossing[link]) for link, cap in caps.items()}
        for running in self._running.values():
            if running.slot is not None:
                self.board.rates[running.slot] = min(shares[link] for link in running.links)


def _is_pattern(link: str) -> bool:
    return "*" in link or "?" in link or "[" in link
