"""Multipart uploads of plain objects, as S3 clients ask for them. How they lie in the store is in `upload_state`."""

from __future__ import annotations

import asyncio
import time
from itertools import islice

import msgpack
from aiohttp import web

from objectcache.cache.core import CacheCore
from objectcache.errors import (
    BadDigestError,
    EntityTooLargeError,
    InvalidArgumentError,
    InvalidPartError,
    UploadNotFoundError,
)
from objectcache.gateway.answers import put_response, xml_response
from objectcache.gateway.buckets import BucketTable
from objectcache.gateway.call import Call, Handler
from objectcache.gateway.object_headers import (
    CHECKSUM_PREFIX,
    WriteConditions,
    copied_range,
    metadata_of,
    write_conditions,
)
from objectcache.gateway.object_parts import PARTS_ETAG, ROOM_FOR_OWN, with_part_sizes
from objectcache.gateway.objects import COPY_SOURCE, ObjectRoutes
from objectcache.gateway.upload_state import (
    BegunUpload,
    begun_name,
    checksum_kept,
    checksum_of,
    chosen_parts,
    completed_before,
    etag_of,
    find_upload,
    keep_part,
    new_upload_id,
    number_of,
    part_name,
    part_prefix,
    remove_upload,
    running_uploads,
)
from objectcache.s3.listings import ListRequest
from objectcache.s3.multipart import (
    MAX_PARTS,
    completed_body,
    created_body,
    parse_complete,
    parts_body,
    uploads_body,
)
from objectcache.s3.part_checksums import CHECKSUM_TYPE, check_kind
from objectcache.s3.results import copied_body
from objectcache.stores.base import check_metadata
from objectcache.workers.bodies import MAX_OBJECT_BYTES
from objectcache.workers.pool import WorkerPool


class UploadRoutes:
    """Multipart uploads."""

    def __init__(self, buckets: BucketTable, pool: WorkerPool, objects: ObjectRoutes) -> None:
        self._buckets = buckets
        self._pool = pool
        self._objects = objects
        self.handlers: dict[str, Handler] = {
            "create-upload": self.create,
            "put-part": self.put_part,
            "complete-upload": self.complete,
            "abort-upload": self.abort,
            "list-parts": self.list_parts,
            "list-uploads": self.list_uploads,
        }

    async def create(self, call: Call) -> web.StreamResponse:
        core = await self._buckets.get(call.bucket)
        call.writable_name  # noqa: B018 - refused now, not when all parts are there
        metadata = metadata_of(call.request.headers)
        algorithm = call.header("x-amz-checksum-algorithm").lower()
        kind = check_kind(algorithm, call.header(CHECKSUM_TYPE)) if algorithm else ""
        check_metadata(metadata | ROOM_FOR_OWN)
        id = new_upload_id(time.time_ns())
        content = msgpack.packb([call.key, metadata, algorithm, kind])
        with await asyncio.to_thread(core.reserve, len(content)):
            await asyncio.to_thread(core.store.put, begun_name(id), content)
        response = xml_response(created_body(call.bucket, call.key, id))
        if algorithm:
            response.headers["x-amz-checksum-algorithm"] = algorithm.upper()
            response.headers[CHECKSUM_TYPE] = kind
        return response

    async def put_part(self, call: Call) -> web.StreamResponse:
        core = await self._buckets.get(call.bucket)
        begun = await asyncio.to_thread(find_upload, core.store, call.query["uploadId"], call.key)
        number = _part_number(call)
        name = part_name(begun.id, number)
        if COPY_SOURCE in call.request.headers:
            return await self._copy_part(call, core, begun, number)
        answer, go_ahead = await self._objects.receive(call, core, name, {}, WriteConditions())
        algorithm, value = answer["checksum"]
        kept = value if algorithm == begun.algorithm else ""
        await asyncio.to_thread(keep_part, core.store, begun, number, answer["etag"], kept)
        return put_response(answer["etag"], answer["checksum"], closes=go_ahead)

    async def _copy_part(self, call: Call, core: CacheCore, begun: BegunUpload, number: int) -> web.StreamResponse:
        source, info = await self._objects.find_source(call)
        header = call.request.headers.get("x-amz-copy-source-range")
        first, stop = (0, info.size_bytes) if header is None else copied_range(header, info.size_bytes)
        if stop - first > MAX_OBJECT_BYTES:
            raise EntityTooLargeError(f"one part has at most {MAX_OBJECT_BYTES} bytes")
        with await asyncio.to_thread(core.reserve, stop - first):
            answer = await (await self._pool.living()).ask(
                "copy",
                of=[{"store": source.url, "name": info.name, "etag": info.etag, "range": [first, stop - first]}],
                store=core.store.url,
                name=part_name(begun.id, number),
                etag="",
                digest=True,
                how={},
            )
        core.store.account(stop - first)
        await asyncio.to_thread(keep_part, core.store, begun, number, answer["etag"], "")
        return xml_response(copied_body(answer["etag"], answer["modified_s"], part=True))

    async def complete(self, call: Call) -> web.StreamResponse:
        core = await self._buckets.get(call.bucket)
        asked = parse_complete(await call.body(checksums=False))
        try:
            begun = await asyncio.to_thread(find_upload, core.store, call.query["uploadId"], call.key)
            parts = await asyncio.to_thread(chosen_parts, core.store, begun, asked)
        except (UploadNotFoundError, InvalidPartError):
            before = await asyncio.to_thread(completed_before, core.store, call.name, asked)
            if before is None:
                raise
            return self._completed(call, before.etag, *checksum_kept(before))
        etag = etag_of([part.etag for part in parts])
        metadata = with_part_sizes(begun.metadata, [part.size_bytes for part in parts]) | {PARTS_ETAG: etag}
        checksum = await asyncio.to_thread(checksum_of, core.store, begun, asked, parts)
        if checksum:
            said = call.header(CHECKSUM_PREFIX + begun.algorithm)
            if said not in ("", checksum):
                raise BadDigestError(f"the checksum of all parts is {checksum}, not {said[:200]}")
            metadata |= {CHECKSUM_PREFIX + begun.algorithm: checksum, CHECKSUM_TYPE: begun.checksum_type}
        conditions = write_conditions(call.request.headers)
        total_bytes = sum(part.size_bytes for part in parts)
        with await asyncio.to_thread(core.reserve, total_bytes):
            answer = await (await self._pool.living()).ask(
                "copy",
                of=[
                    {"store": core.store.url, "name": part.name, "etag": part.etag, "range": [0, part.size_bytes]}
                    for part in parts
                ],
                store=core.store.url,
                name=call.writable_name,
                etag=etag,
                digest=False,
                how=conditions.how() | {"metadata": metadata},
            )
        core.store.account(total_bytes)
        await asyncio.to_thread(remove_upload, core.store, begun.id)
        return self._completed(call, answer["etag"], begun.algorithm if checksum else "", checksum, begun.checksum_type)

    @staticmethod
    def _completed(
        call: Call, etag: str, algorithm: str = "", checksum: str = "", kind: str = ""
    ) -> web.StreamResponse:
        location = f"{call.request.scheme}://{call.header('Host')}/{call.bucket}/{call.key}"
        return xml_response(completed_body(location, call.bucket, call.key, etag, algorithm, checksum, kind))

    async def abort(self, call: Call) -> web.StreamResponse:
        core = await self._buckets.get(call.bucket)
        begun = await asyncio.to_thread(find_upload, core.store, call.query["uploadId"], call.key)
        await asyncio.to_thread(remove_upload, core.store, begun.id)
        return web.Response(status=204)

    async def list_parts(self, call: Call) -> web.StreamResponse:
        core = await self._buckets.get(call.bucket)
        begun = await asyncio.to_thread(find_upload, core.store, call.query["uploadId"], call.key)
        after = call.number("part-number-marker", 0, MAX_PARTS)
        most = call.number("max-parts", 1000, 1000)
        listed = core.store.list(part_prefix(begun.id), start_after=part_name(begun.id, after))
        parts = await asyncio.to_thread(lambda: [(number_of(info), info) for info in islice(listed, most + 1)])
        body = parts_body(
            call.bucket,
            call.key,
            begun.id,
            parts[:most],
            after=after,
            max_parts=most,
            truncated=0 < most < len(parts),
        )
        return xml_response(body)

    async def list_uploads(self, call: Call) -> web.StreamResponse:
        core = await self._buckets.get(call.bucket)
        asked = ListRequest(
            call.bucket,
            prefix=call.query.get("prefix", ""),
            delimiter=call.query.get("delimiter", ""),
            after=call.query.get("key-marker", ""),
            max_keys=call.number("max-uploads", 1000, 1000),
            encode=call.encodes(),
        )
        id_marker = call.query.get("upload-id-marker", "")
        begun = await asyncio.to_thread(running_uploads, core.store)
        return xml_response(_listed(asked, id_marker, begun))


def _listed(asked: ListRequest, id_marker: str, begun: list[BegunUpload]) -> bytes:
    uploads: list[BegunUpload] = []
    prefixes: list[str] = []
    last: BegunUpload | None = None
    truncated = False
    for item in begun:
        behind = item.key > asked.after or (id_marker and item.key == asked.after and item.id > id_marker)
        if not item.key.startswith(asked.prefix) or not (behind or not asked.after):
            continue
        head, found, _ = item.key[len(asked.prefix) :].partition(asked.delimiter) if asked.delimiter else ("", "", "")
        common = asked.prefix + head + asked.delimiter if found else ""
        if common and common in prefixes:
            last = item
            continue
        if len(uploads) + len(prefixes) >= asked.max_keys:
            truncated = True
            break
        last = item
        if common:
            prefixes.append(common)
        else:
            uploads.append(item)
    return uploads_body(
        asked,
        [(item.key, item.id, item.begun_s) for item in uploads],
        prefixes,
        id_marker=id_marker,
        next_key=last.key if truncated and last else "",
        next_id=last.id if truncated and last else "",
    )


def _part_number(call: Call) -> int:
    number = call.number("partNumber", 0, MAX_PARTS + 1)
    if not 1 <= number <= MAX_PARTS:
        raise InvalidArgumentError(f"partNumber must lie in 1..{MAX_PARTS}")
    return number
