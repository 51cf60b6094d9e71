"""`POST /bucket?kv-explain`: what is stored, and why something does not match. JSON in, JSON out."""

from __future__ import annotations

import asyncio

from aiohttp import web

from objectcache.cache.explain import Explainer, answer
from objectcache.gateway.buckets import BucketTable
from objectcache.gateway.call import Call


class ExplainRoute:
    """Answers one request at a time: some go over the whole index, which must not starve those that serve KV."""

    def __init__(self, buckets: BucketTable) -> None:
        self._buckets = buckets
        self._turn = asyncio.Lock()

    async def explain(self, call: Call) -> web.StreamResponse:
        core = await self._buckets.get(call.bucket)
        body = await call.body()
        explainer = Explainer(core.store, core.catalog, used=[core.catalog], salted_by_prefix=False)
        async with self._turn:
            answered = await asyncio.to_thread(answer, explainer, body)
        return web.Response(body=answered, content_type="application/json")
