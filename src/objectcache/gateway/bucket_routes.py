"""What S3 clients ask of buckets: which there are, to make and remove one, and what is in it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import Callable, Sequence

from aiohttp import web

from objectcache.errors import AccessDeniedError, InvalidArgumentError, MalformedXMLError, ObjectCacheError
from objectcache.gateway.answers import xml_response
from objectcache.gateway.buckets import BucketTable
from objectcache.gateway.call import Call, Handler
from objectcache.gateway.listing import list_page
from objectcache.gateway.object_keys import writable_name
from objectcache.gateway.object_reading import check_version
from objectcache.s3 import Grant
from objectcache.s3.listings import (
    ListedPage,
    ListRequest,
    buckets_body,
    list_v1_body,
    list_v2_body,
    list_versions_body,
)
from objectcache.s3.results import deleted_body, location_body, parse_delete, versioning_body
from objectcache.s3.xml import parse
from objectcache.stores import Store
from objectcache.workers.pool import WorkerPool

MAX_KEYS = 1000
PAUSE_TIMES = 4
"""How much longer than the processor worked for a listing the next one waits, beside deliveries."""


class BucketRoutes:
    """Listings run one at a time; beside deliveries, which they give way to, they take a fifth of a core at most."""

    def __init__(self, buckets: BucketTable, pool: WorkerPool, region: str) -> None:
        self._buckets = buckets
        self._pool = pool
        self._region = region
        self._listing = asyncio.Semaphore(1)
        self.handlers: dict[str, Handler] = {
            "list-buckets": self.list_buckets,
            "create-bucket": self.create,
            "head-bucket": self.head,
            "delete-bucket": self.delete,
            "get-location": self.location,
            "get-versioning": self.versioning,
            "list-objects": self.list_v1,
            "list-objects-v2": self.list_v2,
            "list-versions": self.list_versions,
            "delete-objects": self.delete_many,
        }

    async def list_buckets(self, call: Call) -> web.StreamResponse:
        if call.caller.is_stranger:
            raise AccessDeniedError("a request that is not signed has no access to anything here")
        buckets = await self._buckets.listing()
        return xml_response(buckets_body(item for item in buckets if call.caller.may(item[0], Grant.READ)))

    async def create(self, call: Call) -> web.StreamResponse:
        body = await call.body()
        if body.strip():
            wanted = parse(body, "CreateBucketConfiguration").findtext("LocationConstraint") or self._region
            if wanted != self._region:
                raise InvalidArgumentError(f"this gateway's region is {self._region}, not {wanted[:40]!r}")
        await self._buckets.create(call.bucket)
        return web.Response(headers={"Location": f"/{call.bucket}"})

    async def head(self, call: Call) -> web.StreamResponse:
        await self._buckets.get(call.bucket)
        return web.Response(headers={"x-amz-bucket-region": self._region})

    async def delete(self, call: Call) -> web.StreamResponse:
        await self._buckets.get(call.bucket)
        await self._buckets.delete(call.bucket)
        return web.Response(status=204)

    async def location(self, call: Call) -> web.StreamResponse:
        await self._buckets.get(call.bucket)
        return xml_response(location_body(self._region))

    async def versioning(self, call: Call) -> web.StreamResponse:
        await self._buckets.get(call.bucket)
        return xml_response(versioning_body())

    # -- listing ----------------------------------------------------------------------------------

    async def list_v1(self, call: Call) -> web.StreamResponse:
        marker = call.query.get("marker", "")
        asked = _list_request(call, marker)
        return await self._list(call, asked, lambda page: list_v1_body(asked, marker, page))

    async def list_v2(self, call: Call) -> web.StreamResponse:
        if call.query["list-type"] != "2":
            raise InvalidArgumentError("list-type is 2, or not given")
        token, start_after = call.query.get("continuation-token"), call.query.get("start-after", "")
        asked = _list_request(call, _untokened(token) if token else start_after)

        def body(page: ListedPage) -> bytes:
            return list_v2_body(
                asked,
                page,
                token=token,
                next_token=_token(page.next_after),
                start_after=start_after,
                owned=call.query.get("fetch-owner") == "true",
            )

        return await self._list(call, asked, body)

    async def list_versions(self, call: Call) -> web.StreamResponse:
        marker = call.query.get("key-marker", "")
        asked = _list_request(call, marker)
        return await self._list(call, asked, lambda page: list_versions_body(asked, marker, page))

    async def _list(self, call: Call, asked: ListRequest, body: Callable[[ListedPage], bytes]) -> web.StreamResponse:
        store = (await self._buckets.get(call.bucket)).store

        def listing() -> tuple[bytes, float]:
            begun_s = time.thread_time()
            return body(list_page(store, asked)), time.thread_time() - begun_s

        await self._listing.acquire()
        pause_s = 0.0
        try:
            listed, cpu_s = await asyncio.to_thread(listing)
            if any(worker.load for worker in self._pool.workers):
                pause_s = PAUSE_TIMES * cpu_s
        finally:
            # Whoever is next waits for it, not who has been served.
            asyncio.get_running_loop().call_later(pause_s, self._listing.release)
        return xml_response(listed)

    # -- deleting many ----------------------------------------------------------------------------

    async def delete_many(self, call: Call) -> web.StreamResponse:
        store = (await self._buckets.get(call.bucket)).store
        body = await call.body()
        if not body:
            raise MalformedXMLError("the body of a DeleteObjects is empty")
        asked = parse_delete(body)
        deleted, failed = await asyncio.to_thread(_delete_all, store, asked.keys)
        return xml_response(deleted_body([] if asked.quiet else deleted, failed))


def _list_request(call: Call, after: str) -> ListRequest:
    return ListRequest(
        call.bucket,
        prefix=call.query.get("prefix", ""),
        delimiter=call.query.get("delimiter", ""),
        after=after,
        max_keys=call.number("max-keys", MAX_KEYS, MAX_KEYS),
        encode=call.encodes(),
    )


def _token(after: str) -> str:
    """Opaque to clients, which need not encode it: keys may hold anything."""
    return base64.urlsafe_b64encode(after.encode()).decode()


def _untokened(token: str) -> str:
    try:
        return base64.b64decode(token, b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise InvalidArgumentError("the continuation-token is not one that was given out here") from error


def _delete_all(store: Store, keys: Sequence[tuple[str, str]]) -> tuple[list[str], list[tuple[str, ObjectCacheError]]]:
    deleted, failed = [], []
    for key, version in keys:
        try:
            check_version(key, version)
            store.delete(writable_name(key))
        except ObjectCacheError as error:
            failed.append((key, error))
        else:
            deleted.append(key)
    return deleted, failed
