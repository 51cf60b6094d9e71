"""The KV sub-resources that write: namespaces, segments, and the commits that make them visible."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import asdict

from aiohttp import web

from objectcache.cache.base import PartId, UploadTicket
from objectcache.errors import InvalidArgumentError, ObjectCacheError, RequestError
from objectcache.gateway.buckets import BucketTable
from objectcache.gateway.call import Call, Handler
from objectcache.gateway.draining import Drain
from objectcache.gateway.handoff import awaits_continue, body_socket, content_length
from objectcache.gateway.metrics import GatewayMetrics
from objectcache.keys import Namespace
from objectcache.messages import CommitRequest, StoreRequest
from objectcache.s3 import PayloadKind
from objectcache.segment import decode_header
from objectcache.workers.pool import WorkerPool
from objectcache.workers.uploads import ExpectedSegment

UPLOAD_TIMEOUT_S = 60.0
STORE_HEADER = "x-kv-store"


class StoringRoutes:
    """Handlers by operation."""

    def __init__(self, buckets: BucketTable, pool: WorkerPool, metrics: GatewayMetrics, drain: Drain) -> None:
        self._buckets = buckets
        self._pool = pool
        self._metrics = metrics
        self._drain = drain
        self.handlers: dict[str, Handler] = {
            "kv-namespace": self.namespace,
            "kv-store": self.store,
            "kv-commit": self.commit,
        }

    async def namespace(self, call: Call) -> web.StreamResponse:
        core = await self._buckets.get(call.bucket)
        await asyncio.to_thread(core.register, Namespace.from_json(await call.body()))
        return web.Response(status=204)

    async def store(self, call: Call) -> web.StreamResponse:
        """Accept or refuse by what the request says of itself; only then is the body asked for."""
        self._drain.check()
        core = await self._buckets.get(call.bucket)
        request = call.request
        if call.caller.payload is not PayloadKind.UNSIGNED:
            raise InvalidArgumentError("a segment has digests of its own, and is sent as UNSIGNED-PAYLOAD")
        asked = _store_request(request)
        length = content_length(request)
        namespace = await asyncio.to_thread(core.namespace, asked.namespace)
        part = PartId(asked.group, asked.shard)
        shard = namespace.layout.shard(asked.group, asked.shard)
        if core.covers(asked.namespace, part, asked.leaf, asked.first, asked.stop):
            self._metrics.uploads.labels("covered").inc()
            response = web.Response(status=200, headers={"x-kv-covered": "true"})
            if awaits_continue(request):
                response.force_close()  # the body that was announced will not come
            return response
        expected = ExpectedSegment(
            name=core.check_upload_name(asked.segment),
            namespace=asked.namespace,
            group=asked.group,
            shard=asked.shard,
            chunk_tokens=namespace.layout.group(asked.group).chunk_tokens,
            layers=shard.layers,
            slice_bytes=shard.slice_bytes,
            leaf=asked.leaf,
            depth=asked.first,
            num_chunks=asked.stop - asked.first,
        )
        expected.check_length(length)
        with await asyncio.to_thread(core.reserve, length):
            worker = await self._pool.living()  # before the socket's number is taken, which may become another's
            async with body_socket(request) as (fd, go_ahead):
                try:
                    answer = await worker.ask(
                        "receive",
                        fds=[fd],
                        store=core.store.url,
                        segment=asdict(expected),
                        length=length,
                        go_ahead=go_ahead,
                        timeout_s=UPLOAD_TIMEOUT_S,
                    )
                except ObjectCacheError:
                    self._metrics.uploads.labels("failed").inc()
                    raise
        header = decode_header(answer["header"])
        core.store.account(header.total_bytes)
        ticket = UploadTicket(header, header.total_bytes, tuple(answer["row_digests"]))
        await asyncio.to_thread(core.finished, ticket)
        self._metrics.uploads.labels("finished").inc()
        response = web.Response(status=201)
        if go_ahead:
            response.force_close()
        return response

    async def commit(self, call: Call) -> web.StreamResponse:
        core = await self._buckets.get(call.bucket)
        asked = CommitRequest.decode(await call.body())
        await asyncio.to_thread(core.commit, asked.commit, asked.discard)
        self._metrics.uploads.labels("committed").inc(len(asked.commit))
        return web.Response(status=204)


def _store_request(request: web.Request) -> StoreRequest:
    encoded = request.headers.get(STORE_HEADER, "")
    try:
        return StoreRequest.decode(base64.b64decode(encoded, validate=True))
    except ValueError as error:  # also for text that is not ASCII
        raise RequestError(f"the {STORE_HEADER} header must be base64: {error}") from error
