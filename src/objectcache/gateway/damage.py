"""Reports of damage: a client found that what arrived is not what was committed.

It is not believed, for anybody may say so; the segments are read again here, and those that are damaged forgotten.
"""

from __future__ import annotations

import asyncio
import logging

from aiohttp import web

from objectcache.cache.core import CacheCore
from objectcache.descriptor import decode_descriptor
from objectcache.errors import ObjectCacheError
from objectcache.gateway.buckets import BucketTable
from objectcache.workers.pool import WorkerPool

log = logging.getLogger(__name__)


class DamageRoute:
    """`POST /bucket?kv-damage`, with the descriptor of the delivery that failed. One check runs at a time."""

    def __init__(self, buckets: BucketTable, pool: WorkerPool) -> None:
        self._buckets = buckets
        self._pool = pool
        self._checking: asyncio.Task[None] | None = None

    async def report(self, request: web.Request, bucket: str) -> web.StreamResponse:
        core = self._buckets.get(bucket)
        plan = core.plan(decode_descriptor(await request.read()))
        self.check(core, plan.segments)
        return web.Response(status=202)

    def check(self, core: CacheCore, segments: list[str]) -> None:
        """Read segments again, and forget those that are damaged; unless a check runs: damage will be met again."""
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self._check(core, segments))

    async def _check(self, core: CacheCore, segments: list[str]) -> None:
        try:
            answer = await self._pool.pick().ask("verify", store=core.store.url, segments=segments)
            for name in answer["damaged"]:
                await asyncio.to_thread(core.forget, name)
        except ObjectCacheError as error:
            log.warning("a report of damage could not be followed up: %s", error)
