"""Reading plain objects: get, head, and what is asked beside them. More than a few KiB are a data worker's to send."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from aiohttp import web

from objectcache.errors import (
    DeliveryError,
    InvalidArgumentError,
    KeyNotFoundError,
    ObjectChangedError,
    ObjectNotFoundError,
    PreconditionFailedError,
    RequestError,
    StoreError,
)
from objectcache.gateway.answers import xml_response
from objectcache.gateway.buckets import BucketTable
from objectcache.gateway.call import Call, Handler
from objectcache.gateway.chunks import ChunkRoutes
from objectcache.gateway.handoff import HandedOffResponse, response_head, response_socket
from objectcache.gateway.object_headers import (
    STANDARD_HEADERS,
    NotModified,
    byte_range,
    check_read,
    if_range_holds,
    is_header_value,
    title_case,
    told_of,
)
from objectcache.gateway.object_keys import CHUNK_PREFIX, is_kept_for_kv, name_of_key
from objectcache.gateway.object_parts import part_of
from objectcache.s3.results import acl_body, tagging_body
from objectcache.stores import ObjectInfo, ObjectReader, Store
from objectcache.workers.pool import WorkerPool

INLINE_BYTES = 64 << 10
"""Bodies up to this size are answered from the event loop's process: handing over costs more."""
TRANSFER_TIMEOUT_S = 60.0
_TRIES = 3
"""How often an object may be replaced between a look at it and a worker's; then it is sent from here, slower."""
_PIECE_BYTES = 1 << 20


class ReadingRoutes:
    """Names under a reserved prefix are not objects here; chunks can be read as if they were."""

    def __init__(self, buckets: BucketTable, pool: WorkerPool) -> None:
        self._buckets = buckets
        self._pool = pool
        self._chunks = ChunkRoutes(buckets)
        self.handlers: dict[str, Handler] = {
            "get-object": self.get,
            "head-object": self.head,
            "get-acl": self.acl,
            "get-tagging": self.tagging,
        }

    async def get(self, call: Call) -> web.StreamResponse:
        check_version(call.key, call.query.get("versionId", ""))
        if call.key.startswith(CHUNK_PREFIX):
            return await self._chunks.get(call)
        store = (await self._buckets.get(call.bucket)).store
        asked = _Asked(call)
        for _ in range(_TRIES):
            with suppress(ObjectChangedError):  # replaced just now: begin again
                return await self._get(call, store, asked)
        return await self._send_from_here(call, store, asked)

    async def _get(self, call: Call, store: Store, asked: _Asked) -> web.StreamResponse:
        try:
            info, part, body = await asyncio.to_thread(_open_and_read, store, call.key, asked)
        except NotModified as known:
            return _not_modified(known.info)
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
            except DeliveryError:  # a part may have been sent
                return HandedOffResponse(call.request, whole=False)
            except (PreconditionFailedError, ObjectNotFoundError):
                raise ObjectChangedError(f"{call.key!r} was replaced just now") from None
        return HandedOffResponse(call.request, whole=True)

    async def _send_from_here(self, call: Call, store: Store, asked: _Asked) -> web.StreamResponse:
        """Of an object that is replaced all the time: what is open stays what it was."""
        try:
            reader, part = await asyncio.to_thread(_open, store, call.key, asked)
        except NotModified as known:
            return _not_modified(known.info)
        with reader:
            first, stop = part or (0, reader.info.size_bytes)
            response = web.StreamResponse(status=200 if part is None else 206, headers=asked.headers(reader.info, part))
            response.content_length = stop - first
            response.headers["x-amz-request-id"] = call.request_id
            await response.prepare(call.request)
            try:
                for at in range(first, stop, _PIECE_BYTES):
                    data = await asyncio.to_thread(reader.read, at, min(_PIECE_BYTES, stop - at))
                    await response.write(data)
            except (StoreError, OSError):
                return HandedOffResponse(call.request, whole=False)
            await response.write_eof()
        return response

    async def head(self, call: Call) -> web.StreamResponse:
        check_version(call.key, call.query.get("versionId", ""))
        if call.key.startswith(CHUNK_PREFIX):
            return await self._chunks.head(call)
        store = (await self._buckets.get(call.bucket)).store
        info = await asyncio.to_thread(find_object, store, call.key)
        asked = _Asked(call)
        try:
            check_read(call.request.headers, info)
        except NotModified:
            return _not_modified(info)
        part = asked.part(info)
        first, stop = part or (0, info.size_bytes)
        headers = asked.headers(info, part)
        headers["Content-Length"] = str(stop - first)
        return web.Response(status=200 if part is None else 206, headers=headers)

    async def tagging(self, call: Call) -> web.StreamResponse:
        await asyncio.to_thread(find_object, (await self._buckets.get(call.bucket)).store, call.key)
        return xml_response(tagging_body())

    async def acl(self, call: Call) -> web.StreamResponse:
        store = (await self._buckets.get(call.bucket)).store
        if call.key:
            await asyncio.to_thread(find_object, store, call.key)
        return xml_response(acl_body())


class _Asked:
    """What a GET or HEAD says of the response it wants."""

    def __init__(self, call: Call) -> None:
        """Raises RequestError, InvalidArgumentError."""
        self.request_headers = call.request.headers
        self.range = call.request.headers.get("Range")
        self.checksums = call.header("x-amz-checksum-mode").upper() == "ENABLED"
        self.overrides = {
            title_case(name): call.query[f"response-{name}"]
            for name in STANDARD_HEADERS
            if f"response-{name}" in call.query
        }
        if self.overrides and not call.caller.access_key:
            raise RequestError("only signed requests may say what the response's headers are")
        if not all(map(is_header_value, self.overrides.values())):
            raise InvalidArgumentError("the response's headers cannot have control characters in them")
        self.part_number = call.query.get("partNumber")
        if self.part_number is not None and self.range is not None:
            raise RequestError("a request asks for a Range or for a partNumber, not for both")

    def part(self, info: ObjectInfo) -> tuple[int, int] | None:
        """The range [first, stop) that is asked for; None: all. Raises RangeError, InvalidPartError."""
        if self.part_number is not None:
            return part_of(info, self.part_number)[0]
        return byte_range(self.range, info.size_bytes) if if_range_holds(self.request_headers, info) else None

    def headers(self, info: ObjectInfo, part: tuple[int, int] | None) -> dict[str, str]:
        """Those of the response."""
        headers = told_of(info, checksums=self.checksums and part is None) | self.overrides
        if part is not None:
            headers["Content-Range"] = f"bytes {part[0]}-{part[1] - 1}/{info.size_bytes}"
        if self.part_number is not None and "-" in info.etag:
            headers["x-amz-mp-parts-count"] = str(part_of(info, self.part_number)[1])
        return headers


def check_version(key: str, version: str) -> None:
    """Raises KeyNotFoundError: objects have one version, null."""
    if version not in ("null", ""):
        raise KeyNotFoundError(f"{key!r} has no such version")


def find_object(store: Store, key: str) -> ObjectInfo:
    """Raises KeyNotFoundError, as S3 calls it."""
    name = _name(key)
    try:
        return store.head(name)
    except ObjectNotFoundError as error:
        raise KeyNotFoundError(f"there is no object {key!r}") from error


def _name(key: str) -> str:
    name = name_of_key(key)
    if is_kept_for_kv(name):
        raise KeyNotFoundError(f"there is no object {key!r}")
    return name


def _not_modified(info: ObjectInfo) -> web.Response:
    told = told_of(info, checksums=False)
    kept = ("ETag", "Last-Modified", "Cache-Control", "Expires")
    return web.Response(status=304, headers={name: told[name] for name in kept if name in told})


def _open_and_read(store: Store, key: str, asked: _Asked) -> tuple[ObjectInfo, tuple[int, int] | None, bytes | None]:
    """What is there, which range of it is asked for, and the bytes if they are few. Raises also NotModified."""
    reader, part = _open(store, key, asked)
    with reader:
        first, stop = part or (0, reader.info.size_bytes)
        body = reader.read(first, stop - first) if stop - first <= INLINE_BYTES else None
        return reader.info, part, body


def _open(store: Store, key: str, asked: _Asked) -> tuple[ObjectReader, tuple[int, int] | None]:
    """What is there, its conditions checked, and which range of it is asked for. Raises also NotModified."""
    try:
        reader = store.open(_name(key))
    except ObjectNotFoundError as error:
        raise KeyNotFoundError(f"there is no object {key!r}") from error
    try:
        check_read(asked.request_headers, reader.info)
        return reader, asked.part(reader.info)
    except BaseException:
        reader.close()
        raise
