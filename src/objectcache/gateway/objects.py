"""Plain objects and buckets: PUT, GET, HEAD, DELETE, LIST."""

from __future__ import annotations

import asyncio
import re
import time
from email.utils import formatdate
from itertools import islice

from aiohttp import web

from objectcache.errors import ObjectCacheError, ObjectNotFoundError, RangeError, RequestError
from objectcache.gateway.buckets import BucketTable
from objectcache.gateway.handoff import (
    HandedOffResponse,
    body_socket,
    content_length,
    request_socket,
    response_head,
)
from objectcache.names import is_reserved
from objectcache.s3 import list_body
from objectcache.stores import ObjectInfo, Store, check_name
from objectcache.workers.pool import WorkerPool

INLINE_BYTES = 64 << 10
"""Bodies up to this size are answered from the event loop's process: handing over costs more."""
MAX_KEYS = 1000
TRANSFER_TIMEOUT_S = 60.0
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class ObjectRoutes:
    """S3's plainest requests. Names under the reserved prefix are not objects here."""

    def __init__(self, buckets: BucketTable, pool: WorkerPool) -> None:
        self._buckets = buckets
        self._pool = pool
        self._listing = asyncio.Semaphore(1)

    async def put_bucket(self, request: web.Request, bucket: str) -> web.StreamResponse:
        await self._buckets.create(bucket)
        return web.Response(headers={"Location": f"/{bucket}"})

    async def head_bucket(self, request: web.Request, bucket: str) -> web.StreamResponse:
        self._buckets.get(bucket)
        return web.Response()

    async def put(self, request: web.Request, bucket: str, name: str) -> web.StreamResponse:
        core = self._buckets.get(bucket)
        check_name(name)
        _refuse_reserved(name)
        length = content_length(request)
        with await asyncio.to_thread(core.reserve, length):
            worker = await self._pool.living()  # before the socket's number is taken, which may become another's
            async with body_socket(request) as (fd, go_ahead):
                answer = await worker.ask(
                    "receive",
                    fds=[fd],
                    store=core.store.url,
                    name=name,
                    length=length,
                    if_absent=request.headers.get("If-None-Match") == "*",
                    go_ahead=go_ahead,
                    timeout_s=TRANSFER_TIMEOUT_S,
                )
        core.store.account(length)
        response = web.Response(headers={"ETag": f'"{answer["etag"]}"'})
        if go_ahead:
            response.force_close()
        return response

    async def get(self, request: web.Request, bucket: str, name: str) -> web.StreamResponse:
        store, info = await self._find(bucket, name)
        first, stop = _range(request, info.size_bytes)
        headers = _headers(info)
        partial = "Range" in request.headers
        if partial:
            headers["Content-Range"] = f"bytes {first}-{stop - 1}/{info.size_bytes}"
        if stop - first <= INLINE_BYTES:
            body = await asyncio.to_thread(_read, store, name, first, stop)
            return web.Response(body=body, status=206 if partial else 200, headers=headers)
        status = "206 Partial Content" if partial else "200 OK"
        try:
            await (await self._pool.living()).ask(
                "send_object",
                fds=[request_socket(request).fileno()],
                head=response_head(request, stop - first, headers, status=status),
                store=store.url,
                name=name,
                offset=first,
                length=stop - first,
                timeout_s=TRANSFER_TIMEOUT_S,
            )
        except ObjectCacheError:
            return HandedOffResponse(request, whole=False)
        return HandedOffResponse(request, whole=True)

    async def head(self, request: web.Request, bucket: str, name: str) -> web.StreamResponse:
        _, info = await self._find(bucket, name)
        headers = _headers(info)
        headers["Content-Length"] = str(info.size_bytes)
        return web.Response(headers=headers)

    async def delete(self, request: web.Request, bucket: str, name: str) -> web.StreamResponse:
        core = self._buckets.get(bucket)
        _refuse_reserved(check_name(name))
        await asyncio.to_thread(core.store.delete, name)
        return web.Response(status=204)

    async def list(self, request: web.Request, bucket: str) -> web.StreamResponse:
        query = request.query
        store = self._buckets.get(bucket).store
        try:
            max_keys = min(MAX_KEYS, max(0, int(query.get("max-keys", MAX_KEYS))))
        except ValueError as error:
            raise RequestError("max-keys must be a number") from error
        delimiter = query.get("delimiter", "")
        if delimiter not in ("", "/"):
            raise RequestError("the only delimiter that is known here is '/'")
        prefix = query.get("prefix", "")
        after = query.get("continuation-token") or query.get("start-after", "")
        async with self._listing:
            started_s = time.perf_counter()
            body = await asyncio.to_thread(_list, store, bucket, prefix, delimiter, after, max_keys)
            if any(worker.load for worker in self._pool.workers):
                # Listing gives way to deliveries: beside them it takes at most half of the time.
                await asyncio.sleep(time.perf_counter() - started_s)
        return web.Response(body=body, content_type="application/xml")

    async def _find(self, bucket: str, name: str) -> tuple[Store, ObjectInfo]:
        store = self._buckets.get(bucket).store
        check_name(name)
        if is_reserved(name):
            raise ObjectNotFoundError(f"there is no object {name!r}")
        return store, await asyncio.to_thread(store.head, name)


def _refuse_reserved(name: str) -> None:
    if is_reserved(name):
        raise RequestError(f"names that begin with {name.split('/')[0]}/ are kept for KV")


def _headers(info: ObjectInfo) -> dict[str, str]:
    return {
        "ETag": f'"{info.etag}"',
        "Last-Modified": formatdate(info.modified_s, usegmt=True),
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
    }


def _range(request: web.Request, size: int) -> tuple[int, int]:
    """The byte range asked for, [first, stop). Raises RangeError when nothing of it exists."""
    header = request.headers.get("Range")
    if header is None:
        return 0, size
    found = _RANGE.fullmatch(header)
    if found is None or not (found[1] or found[2]):
        raise RangeError(f"cannot serve the range {header!r}: one range 'bytes=first-last' is what works")
    if not found[1]:
        first, stop = max(0, size - int(found[2])), size
    else:
        first, stop = int(found[1]), min(size, int(found[2]) + 1 if found[2] else size)
    if first >= stop:
        raise RangeError(f"the range {header!r} lies outside the object's {size} bytes")
    return first, stop


def _read(store: Store, name: str, first: int, stop: int) -> bytes:
    with store.open(name) as reader:
        return reader.read(first, stop - first)


def _list(store: Store, bucket: str, prefix: str, delimiter: str, after: str, max_keys: int) -> bytes:
    objects: list[ObjectInfo] = []
    prefixes: list[str] = []
    last = ""
    entries = (info for info in store.list(prefix, start_after=after) if not is_reserved(info.name))
    if not delimiter:
        objects = list(islice(entries, max_keys + 1))
        truncated = len(objects) > max_keys
        objects = objects[:max_keys]
        last = objects[-1].name if objects else after
    else:
        truncated = False
        for info in entries:
            head, found, _ = info.name[len(prefix) :].partition(delimiter)
            common = prefix + head + delimiter if found else ""
            if common and (common in prefixes[-1:] or after.startswith(common)):
                last = info.name
                continue
            if len(objects) + len(prefixes) >= max_keys:
                truncated = True
                break
            if common:
                prefixes.append(common)
            else:
                objects.append(info)
            last = info.name
    return list_body(bucket, prefix, delimiter, objects, prefixes, max_keys, last if truncated else "")
