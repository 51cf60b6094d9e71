"""Writing plain objects: put, copy, delete. Bodies and copies are a data worker's."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from objectcache.cache.core import CacheCore
from objectcache.errors import (
    EntityTooLargeError,
    InvalidArgumentError,
    KeyNotFoundError,
    ObjectNotFoundError,
    RequestError,
)
from objectcache.gateway.answers import put_response, xml_response
from objectcache.gateway.buckets import BucketTable
from objectcache.gateway.call import Call, Handler
from objectcache.gateway.handoff import body_socket
from objectcache.gateway.object_headers import (
    CHECKSUM_PREFIX,
    WriteConditions,
    check_read,
    copy_source,
    metadata_of,
    own_metadata,
    write_conditions,
)
from objectcache.gateway.object_reading import check_version, find_object
from objectcache.s3 import Grant
from objectcache.s3.part_checksums import CHECKSUM_TYPE, FULL_OBJECT
from objectcache.s3.results import copied_body
from objectcache.stores import ObjectInfo, Store
from objectcache.workers.bodies import MAX_OBJECT_BYTES, MAX_UNANNOUNCED_BYTES
from objectcache.workers.pool import WorkerPool

TRANSFER_TIMEOUT_S = 60.0
COPY_SOURCE = "x-amz-copy-source"
_S3_ETAG = re.compile("[0-9a-f]{32}(-[0-9]+)?")


class ObjectRoutes:
    """Names under a reserved prefix are not objects here."""

    def __init__(self, buckets: BucketTable, pool: WorkerPool) -> None:
        self._buckets = buckets
        self._pool = pool
        self.handlers: dict[str, Handler] = {
            "put-object": self.put,
            "delete-object": self.delete,
        }

    async def put(self, call: Call) -> web.StreamResponse:
        if COPY_SOURCE in call.request.headers:
            return await self.copy(call)
        core = await self._buckets.get(call.bucket)
        name = call.writable_name
        conditions = write_conditions(call.request.headers)
        metadata = metadata_of(call.request.headers)
        if conditions:
            # Decided when the object is whole; but what cannot be is said before its body is asked for.
            await asyncio.to_thread(_check_conditions, core.store, name, conditions)
        answer, go_ahead = await self.receive(call, core, name, metadata, conditions)
        return put_response(answer["etag"], answer["checksum"], closes=go_ahead)

    async def receive(
        self, call: Call, core: CacheCore, name: str, metadata: Mapping[str, str], conditions: WriteConditions
    ) -> tuple[dict[str, Any], bool]:
        """The request's body as an object of the bucket; the worker's answer, and whether the connection must close."""
        spec = call.caller.body_spec(call.request)
        size_bytes = MAX_UNANNOUNCED_BYTES if spec.decoded_bytes is None else spec.decoded_bytes
        if size_bytes > MAX_OBJECT_BYTES:
            raise EntityTooLargeError(f"one PUT carries at most {MAX_OBJECT_BYTES} bytes: use a multipart upload")
        if spec.announced.algorithm and spec.announced.value is not None:
            name_of_sum = CHECKSUM_PREFIX + spec.announced.algorithm
            metadata = {**metadata, name_of_sum: call.header(name_of_sum), CHECKSUM_TYPE: FULL_OBJECT}
        with await asyncio.to_thread(core.reserve, size_bytes):
            worker = await self._pool.living()  # before the socket's number is taken, which may become another's
            async with body_socket(call.request, raw=spec.wire_bytes is not None) as (fd, go_ahead):
                answer = await worker.ask(
                    "receive",
                    fds=[fd],
                    store=core.store.url,
                    name=name,
                    body=spec.to_wire(),
                    how=conditions.how() | {"metadata": dict(metadata)},
                    go_ahead=go_ahead,
                    timeout_s=TRANSFER_TIMEOUT_S,
                )
        core.store.account(answer["size_bytes"])
        return answer, go_ahead

    async def copy(self, call: Call) -> web.StreamResponse:
        core = await self._buckets.get(call.bucket)
        name = call.writable_name
        source, info = await self.find_source(call)
        directive = call.header("x-amz-metadata-directive").upper() or "COPY"
        if directive not in ("COPY", "REPLACE"):
            raise InvalidArgumentError(f"x-amz-metadata-directive is COPY or REPLACE, not {directive[:40]!r}")
        if directive == "COPY" and source.url == core.store.url and info.name == name:
            raise RequestError("a copy of an object onto itself must change its metadata: REPLACE")
        if info.size_bytes > MAX_OBJECT_BYTES:
            raise EntityTooLargeError(f"one copy carries at most {MAX_OBJECT_BYTES} bytes: use a multipart upload")
        replaced = metadata_of(call.request.headers)
        metadata = dict(info.metadata) if directive == "COPY" else replaced | own_metadata(info)
        conditions = write_conditions(call.request.headers)
        with await asyncio.to_thread(core.reserve, info.size_bytes):
            answer = await (await self._pool.living()).ask(
                "copy",
                of=[{"store": source.url, "name": info.name, "etag": info.etag, "range": [0, info.size_bytes]}],
                store=core.store.url,
                name=name,
                etag=info.etag if _S3_ETAG.fullmatch(info.etag) else "",
                digest=False,
                how=conditions.how() | {"metadata": metadata},
            )
        core.store.account(info.size_bytes)
        return xml_response(copied_body(answer["etag"], answer["modified_s"]))

    async def find_source(self, call: Call) -> tuple[Store, ObjectInfo]:
        """The object that a copy is of, its conditions checked. Raises KeyNotFoundError, PreconditionFailedError, …"""
        bucket, key = copy_source(call.header(COPY_SOURCE))
        call.caller.require(bucket, Grant.READ)
        store = (await self._buckets.get(bucket)).store
        info = await asyncio.to_thread(find_object, store, key)
        check_read(call.request.headers, info, prefix="x-amz-copy-source-")
        return store, info

    async def delete(self, call: Call) -> web.StreamResponse:
        check_version(call.key, call.query.get("versionId", ""))
        core = await self._buckets.get(call.bucket)
        await asyncio.to_thread(core.store.delete, call.writable_name)
        return web.Response(status=204)


def _check_conditions(store: Store, name: str, conditions: WriteConditions) -> None:
    """Raises PreconditionFailedError, KeyNotFoundError."""
    try:
        info = store.head(name)
    except ObjectNotFoundError as error:
        if conditions.if_match:
            raise KeyNotFoundError("there is no object with that ETag, nor any other") from error
    else:
        conditions.check(info)
