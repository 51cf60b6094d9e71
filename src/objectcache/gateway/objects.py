"""Plain objects: put, get, head, delete, copy. Bodies of more than a few KiB are a data worker's."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import Any

from aiohttp import web

from objectcache.cache.core import CacheCore
from objectcache.errors import (
    EntityTooLargeError,
    InvalidArgumentError,
    KeyNotFoundError,
    ObjectCacheError,
    ObjectChangedError,
    ObjectNotFoundError,
    RequestError,
)
from objectcache.gateway.buckets import BucketTable
from objectcache.gateway.call import Call, Handler
from objectcache.gateway.chunks import ChunkRoutes
from objectcache.gateway.handoff import HandedOffResponse, body_socket, response_head, response_socket
from objectcache.gateway.object_headers import (
    CHECKSUM_PREFIX,
    STANDARD_HEADERS,
    NotModified,
    byte_range,
    check_read,
    copy_source,
    metadata_of,
    told_of,
    write_conditions,
)
from objectcache.gateway.object_keys import CHUNK_PREFIX, is_kept_for_kv, name_of_key
from objectcache.gateway.object_parts import part_of
from objectcache.s3 import Grant
from objectcache.s3.part_checksums import CHECKSUM_TYPE, FULL_OBJECT
from objectcache.s3.results import acl_body, copied_body, tagging_body
from objectcache.stores import ObjectInfo, Store
from objectcache.workers.bodies import MAX_OBJECT_BYTES
from objectcache.workers.pool import WorkerPool

INLINE_BYTES = 64 << 10
"""Bodies up to this size are answered from the event loop's process: handing over costs more."""
TRANSFER_TIMEOUT_S = 60.0
COPY_SOURCE = "x-amz-copy-source"
_TRIES = 4
"""How often an object may be replaced between a look at it and the first byte of it."""
_S3_ETAG = re.compile("[0-9a-f]{32}(-[0-9]+)?")


class ObjectRoutes:
    """Names under a reserved prefix are not objects here; chunks can be read as if they were."""

    def __init__(self, buckets: BucketTable, pool: WorkerPool) -> None:
        self._buckets = buckets
        self._pool = pool
        self._chunks = ChunkRoutes(buckets)
        self.handlers: dict[str, Handler] = {
            "get-object": self.get,
            "head-object": self.head,
            "put-object": self.put,
            "delete-object": self.delete,
            "get-acl": self.acl,
            "get-tagging": self.tagging,
        }

    # -- writing ----------------------------------------------------------------------------------

    async def put(self, call: Call) -> web.StreamResponse:
        if COPY_SOURCE in call.request.headers:
            return await self.copy(call)
        core = await self._buckets.get(call.bucket)
        name = writable_name(call)
        if_absent, if_match = write_conditions(call.request.headers)
        metadata = metadata_of(call.request.headers)
        answer, go_ahead = await self.receive(call, core, name, metadata, if_absent=if_absent, if_match=if_match)
        return put_response(answer["etag"], answer["checksum"], closes=go_ahead)

    async def receive(
        self, call: Call, core: CacheCore, name: str, metadata: dict[str, str], *, if_absent: bool, if_match: str
    ) -> tuple[dict[str, Any], bool]:
        """The request's body as an object of the bucket; the worker's answer, and whether the connection must close."""
        spec = call.caller.body_spec(call.request)
        size_bytes = spec.decoded_bytes or 0
        if size_bytes > MAX_OBJECT_BYTES:
            raise EntityTooLargeError(f"one PUT carries at most {MAX_OBJECT_BYTES} bytes: use a multipart upload")
        if spec.announced.algorithm and spec.announced.value is not None:
            name_of_sum = CHECKSUM_PREFIX + spec.announced.algorithm
            metadata |= {name_of_sum: call.header(name_of_sum), CHECKSUM_TYPE: FULL_OBJECT}
        with await asyncio.to_thread(core.reserve, size_bytes):
            worker = await self._pool.living()  # before the socket's number is taken, which may become another's
            async with body_socket(call.request, raw=spec.wire_bytes is not None) as (fd, go_ahead):
                answer = await worker.ask(
                    "receive",
                    fds=[fd],
                    store=core.store.url,
                    name=name,
                    body=spec.to_wire(),
                    how={"if_absent": if_absent, "if_match": if_match, "metadata": metadata},
                    go_ahead=go_ahead,
                    timeout_s=TRANSFER_TIMEOUT_S,
                )
        core.store.account(answer["size_bytes"])
        return answer, go_ahead

    async def copy(self, call: Call) -> web.StreamResponse:
        core = await self._buckets.get(call.bucket)
        name = writable_name(call)
        source, info = await self.find_source(call)
        directive = call.header("x-amz-metadata-directive").upper() or "COPY"
        if directive not in ("COPY", "REPLACE"):
            raise InvalidArgumentError(f"x-amz-metadata-directive is COPY or REPLACE, not {directive[:40]!r}")
        if directive == "COPY" and source.url == core.store.url and info.name == name:
            raise RequestError("a copy of an object onto itself must change its metadata: REPLACE")
        if info.size_bytes > MAX_OBJECT_BYTES:
            raise EntityTooLargeError(f"one copy carries at most {MAX_OBJECT_BYTES} bytes: use a multipart upload")
        replaced = metadata_of(call.request.headers)
        metadata = dict(info.metadata) if directive == "COPY" else replaced
        if_absent, if_match = write_conditions(call.request.headers)
        with await asyncio.to_thread(core.reserve, info.size_bytes):
            answer = await (await self._pool.living()).ask(
                "copy",
                of=[{"store": source.url, "name": info.name, "etag": info.etag, "range": [0, info.size_bytes]}],
                store=core.store.url,
                name=name,
                etag=info.etag if _S3_ETAG.fullmatch(info.etag) else "",
                digest=False,
                how={"if_absent": if_absent, "if_match": if_match, "metadata": metadata},
            )
        core.store.account(info.size_bytes)
        return xml_response(copied_body(answer["etag"], answer["modified_s"]))

    async def find_source(self, call: Call) -> tuple[Store, ObjectInfo]:
        """The object that a copy is of, its conditions checked. Raises KeyNotFoundError, PreconditionFailedError, …"""
        bucket, key = copy_source(call.header(COPY_SOURCE))
        call.caller.require(bucket, Grant.READ)
        store = (await self._buckets.get(bucket)).store
        info = await asyncio.to_thread(_head, store, key)
        check_read(call.request.headers, info, prefix="x-amz-copy-source-")
        return store, info

    async def delete(self, call: Call) -> web.StreamResponse:
        _check_version(call)
        core = await self._buckets.get(call.bucket)
        await asyncio.to_thread(core.store.delete, writable_name(call))
        return web.Response(status=204)

    # -- reading ----------------------------------------------------------------------------------

    async def get(self, call: Call) -> web.StreamResponse:
        _check_version(call)
        if call.key.startswith(CHUNK_PREFIX):
            return await self._chunks.get(call)
        store = (await self._buckets.get(call.bucket)).store
        for attempt in range(_TRIES):
            with suppress(ObjectChangedError):  # replaced just now: begin again
                return await self._get(call, store, attempt)
        raise ObjectChangedError(f"{call.key!r} is replaced all the time")

    async def _get(self, call: Call, store: Store, attempt: int) -> web.StreamResponse:
        asked = _Asked(call)
        try:
            info, part, body = await asyncio.to_thread(_open_and_read, store, call.key, asked)
        except NotModified:
            return await self._not_modified(call, store)
        first, stop = part or (0, info.size_bytes)
        headers = asked.headers(info, part)
        if body is not None:
            return web.Response(body=body, status=200 if part is None else 206, headers=headers)
        head = response_head(
            call.request,
            stop - first,
            {"x-amz-request-id": call.request_id} | headers,
            status="200 OK" if part is None else "206 Partial Content",
        )
        worker = await self._pool.living()
        async with response_socket(call.request) as fd:
            try:
                await worker.ask(
                    "send_object",
                    fds=[fd],
                    head=head,
                    store=store.url,
                    name=info.name,
                    etag=info.etag,
                    offset=first,
                    length=stop - first,
                    timeout_s=TRANSFER_TIMEOUT_S,
                )
            except (ObjectChangedError, ObjectNotFoundError):
                raise ObjectChangedError(f"{call.key!r} was replaced just now") from None  # nothing was sent
            except ObjectCacheError:
                return HandedOffResponse(call.request, whole=False)
        return HandedOffResponse(call.request, whole=True)

    async def _not_modified(self, call: Call, store: Store) -> web.StreamResponse:
        info = await asyncio.to_thread(_head, store, call.key)
        told = told_of(info, checksums=False)
        return web.Response(status=304, headers={name: told[name] for name in ("ETag", "Last-Modified")})

    async def head(self, call: Call) -> web.StreamResponse:
        _check_version(call)
        if call.key.startswith(CHUNK_PREFIX):
            return await self._chunks.head(call)
        store = (await self._buckets.get(call.bucket)).store
        info = await asyncio.to_thread(_head, store, call.key)
        asked = _Asked(call)
        try:
            check_read(call.request.headers, info)
        except NotModified:
            return await self._not_modified(call, store)
        part = asked.part(info)
        first, stop = part or (0, info.size_bytes)
        headers = asked.headers(info, part)
        headers["Content-Length"] = str(stop - first)
        return web.Response(status=200 if part is None else 206, headers=headers)

    async def tagging(self, call: Call) -> web.StreamResponse:
        await asyncio.to_thread(_head, (await self._buckets.get(call.bucket)).store, call.key)
        return xml_response(tagging_body())

    async def acl(self, call: Call) -> web.StreamResponse:
        store = (await self._buckets.get(call.bucket)).store
        if call.key:
            await asyncio.to_thread(_head, store, call.key)
        return xml_response(acl_body())


class _Asked:
    """What a GET or HEAD says of the response it wants."""

    def __init__(self, call: Call) -> None:
        self.request_headers = call.request.headers
        self.range = call.request.headers.get("Range")
        self.checksums = call.header("x-amz-checksum-mode").upper() == "ENABLED"
        self.overrides = {
            "-".join(map(str.capitalize, name.split("-"))): call.query[f"response-{name}"]
            for name in STANDARD_HEADERS
            if f"response-{name}" in call.query
        }
        if self.overrides and not call.caller.access_key:
            raise RequestError("only signed requests may say what the response's headers are")
        self.part_number = call.query.get("partNumber")
        if self.part_number is not None and self.range is not None:
            raise RequestError("a request asks for a Range or for a partNumber, not for both")

    def part(self, info: ObjectInfo) -> tuple[int, int] | None:
        """The range [first, stop) that is asked for; None: all. Raises RangeError, InvalidPartError."""
        if self.part_number is None:
            return byte_range(self.range, info.size_bytes)
        return part_of(info, self.part_number)[0]

    def headers(self, info: ObjectInfo, part: tuple[int, int] | None) -> dict[str, str]:
        """Those of the response."""
        headers = told_of(info, checksums=self.checksums and part is None) | self.overrides
        if part is not None:
            headers["Content-Range"] = f"bytes {part[0]}-{part[1] - 1}/{info.size_bytes}"
        if self.part_number is not None and "-" in info.etag:
            headers["x-amz-mp-parts-count"] = str(part_of(info, self.part_number)[1])
        return headers


def writable_name(call: Call) -> str:
    """The store's name of the key to be written. Raises RequestError for one that is kept for KV."""
    name = call.name
    if is_kept_for_kv(name):
        raise RequestError(f"keys that begin with {name.split('/')[0]}/ are kept for KV")
    return name


def put_response(etag: object, checksum: object, *, closes: bool) -> web.Response:
    response = web.Response(headers={"ETag": f'"{etag}"'})
    algorithm, value = checksum if isinstance(checksum, list | tuple) else ("", "")
    if algorithm:
        response.headers[f"{CHECKSUM_PREFIX}{algorithm}"] = value
    if closes:
        response.force_close()
    return response


def xml_response(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/xml")


def _check_version(call: Call) -> None:
    """Raises KeyNotFoundError: objects have one version, null."""
    if call.query.get("versionId", "null") not in ("null", ""):
        raise KeyNotFoundError(f"{call.key!r} has no such version")


def _head(store: Store, key: str) -> ObjectInfo:
    """Raises KeyNotFoundError, as S3 calls it."""
    name = name_of_key(key)
    if is_kept_for_kv(name):
        raise KeyNotFoundError(f"there is no object {key!r}")
    try:
        return store.head(name)
    except ObjectNotFoundError as error:
        raise KeyNotFoundError(f"there is no object {key!r}") from error


def _open_and_read(store: Store, key: str, asked: _Asked) -> tuple[ObjectInfo, tuple[int, int] | None, bytes | None]:
    """What is there, which range of it is asked for, and the bytes if they are few. Raises also NotModified."""
    name = name_of_key(key)
    if is_kept_for_kv(name):
        raise KeyNotFoundError(f"there is no object {key!r}")
    try:
        with store.open(name) as reader:
            info = reader.info
            check_read(asked.request_headers, info)
            part = asked.part(info)
            first, stop = part or (0, info.size_bytes)
            body = reader.read(first, stop - first) if stop - first <= INLINE_BYTES else None
            return info, part, body
    except ObjectNotFoundError as error:
        raise KeyNotFoundError(f"there is no object {key!r}") from error
