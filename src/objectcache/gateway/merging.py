"""Merging in a gateway: the control process decides, a data worker copies."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress

from objectcache.cache.core import CacheCore
from objectcache.cache.merging.background import PAUSE_S
from objectcache.cache.merging.merger import Begun, Merger
from objectcache.cache.merging.policy import MergeLimits
from objectcache.config import GatewayConfig
from objectcache.errors import IntegrityError, ObjectCacheError, SegmentGoneError
from objectcache.gateway.buckets import BucketTable
from objectcache.joining import DEFAULT_BYTES_S, Joined
from objectcache.segment import decode_header
from objectcache.workers.pool import WorkerOrderError, WorkerPool

log = logging.getLogger(__name__)


class Merging:
    """One merge at a time, of all buckets. Lives on the event loop."""

    def __init__(self, config: GatewayConfig, buckets: BucketTable, pool: WorkerPool) -> None:
        self._buckets, self._pool = buckets, pool
        # Each byte that is merged is got from a store that is far away and put there again, which costs: not unasked.
        default_bytes_s = 0 if config.store else DEFAULT_BYTES_S
        self._bytes_s = default_bytes_s if config.merge_bytes_s is None else config.merge_bytes_s
        self._interval_s = config.merge_interval_s
        self._paused_until_s: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._bytes_s:
            self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Give up what is under way."""
        if self._task is None:
            return
        for worker in self._pool.workers:
            worker.tell("stop_joins")
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._task = None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            for name, core in self._buckets.items():
                if not core.fragments or time.monotonic() < self._paused_until_s.get(name, 0.0):
                    continue
                unlucky = core.merges.unlucky
                try:
                    await self._merge(core)
                except ObjectCacheError as error:
                    core.merges.failed += 1
                    log.warning("merging in bucket %s pauses: %s", name, error)
                except Exception:  # must not end it for all buckets
                    core.merges.failed += 1
                    log.exception("merging in bucket %s failed", name)
                if core.merges.unlucky > unlucky:
                    self._paused_until_s[name] = time.monotonic() + PAUSE_S

    async def _merge(self, core: CacheCore) -> None:
        merger, unlucky = Merger(core, MergeLimits.at_rate(self._bytes_s)), core.merges.unlucky
        findings = await asyncio.to_thread(merger.find)
        await asyncio.to_thread(merger.drop_duplicates, findings)
        for run in findings.runs:
            begun = await asyncio.to_thread(merger.begin, run)
            if begun is not None:
                await self._join(core, merger, begun)
            if core.merges.unlucky > unlucky:
                return

    async def _join(self, core: CacheCore, merger: Merger, begun: Begun) -> None:
        try:
            worker = await self._pool.living()
            answer = await worker.order(
                "join", store=core.store.url, order=begun.order.to_wire(), bytes_s=self._bytes_s
            )
        except WorkerOrderError as problem:
            await asyncio.to_thread(merger.give_up, begun, _error(problem))
        except ObjectCacheError as error:
            await asyncio.to_thread(merger.give_up, begun, error)
        except BaseException:
            with begun.room:
                raise
        else:
            joined = Joined(decode_header(answer["header"]), tuple(answer["row_digests"]))
            core.store.account(joined.header.total_bytes)
            await asyncio.to_thread(merger.complete, begun, joined)


def _error(problem: WorkerOrderError) -> ObjectCacheError:
    """What the worker answered, with the segment that is at fault."""
    if isinstance(problem.error, IntegrityError | SegmentGoneError):
        problem.error.segment = problem.segment
    return problem.error
