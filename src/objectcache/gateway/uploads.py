"""Multipart uploads of plain objects: parts are objects under a reserved prefix until the upload is completed.

    .kv/mp/<upload id>/begun          key and metadata
    .kv/mp/<upload id>/part/<number>  the parts

So any gateway on the same store can go on with what another has begun.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from dataclasses import dataclass
from itertools import islice

import msgpack
from aiohttp import web

from objectcache.cache.core import CacheCore
from objectcache.errors import (
    EntityTooSmallError,
    InvalidArgumentError,
    InvalidPartError,
    ObjectNotFoundError,
    UploadNotFoundError,
)
from objectcache.gateway.buckets import BucketTable
from objectcache.gateway.call import Call, Handler
from objectcache.gateway.object_headers import byte_range, metadata_of, write_conditions
from objectcache.gateway.objects import COPY_SOURCE, ObjectRoutes, put_response, writable_name, xml_response
from objectcache.names import MULTIPART_PREFIX
from objectcache.s3.listings import ListRequest
from objectcache.s3.multipart import (
    MAX_PARTS,
    CompletedPart,
    completed_body,
    created_body,
    parse_complete,
    parts_body,
    uploads_body,
)
from objectcache.s3.results import copied_body
from objectcache.stores import ObjectInfo, Store
from objectcache.workers.pool import WorkerPool

MIN_PART_BYTES = 5 << 20
_ID = re.compile(r"[0-9a-f]{32}")
_MD5 = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class _Begun:
    """An upload that is under way."""

    id: str
    key: str
    metadata: dict[str, str]
    begun_s: float


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
        writable_name(call)
        metadata = metadata_of(call.request.headers)
        id = secrets.token_hex(16)
        content = msgpack.packb([call.key, metadata])
        with await asyncio.to_thread(core.reserve, len(content)):
            await asyncio.to_thread(core.store.put, _begun_name(id), content)
        return xml_response(created_body(call.bucket, call.key, id))

    async def put_part(self, call: Call) -> web.StreamResponse:
        core = await self._buckets.get(call.bucket)
        begun = await asyncio.to_thread(_find, core.store, call)
        name = _part_name(begun.id, _part_number(call))
        if COPY_SOURCE in call.request.headers:
            return await self._copy_part(call, core, name)
        answer, go_ahead = await self._objects.receive(call, core, name, {}, if_absent=False, if_match="")
        return put_response(answer["etag"], answer["checksum"], closes=go_ahead)

    async def _copy_part(self, call: Call, core: CacheCore, name: str) -> web.StreamResponse:
        source, info = await self._objects.find_source(call)
        header = call.request.headers.get("x-amz-copy-source-range")
        part = byte_range(header, info.size_bytes)
        if header is not None and (part is None or part[1] - part[0] != _asked_bytes(header)):
            raise InvalidArgumentError(f"x-amz-copy-source-range must lie within the source's {info.size_bytes} bytes")
        first, stop = part or (0, info.size_bytes)
        with await asyncio.to_thread(core.reserve, stop - first):
            answer = await (await self._pool.living()).ask(
                "copy",
                of=[{"store": source.url, "name": info.name, "etag": info.etag, "range": [first, stop - first]}],
                store=core.store.url,
                name=name,
                etag="",
                digest=True,
                how={},
            )
        core.store.account(stop - first)
        return xml_response(copied_body(answer["etag"], answer["modified_s"], part=True))

    async def complete(self, call: Call) -> web.StreamResponse:
        core = await self._buckets.get(call.bucket)
        begun = await asyncio.to_thread(_find, core.store, call)
        asked = parse_complete(await call.body())
        parts = await asyncio.to_thread(_chosen, core.store, begun, asked)
        if_absent, if_match = write_conditions(call.request.headers)
        total_bytes = sum(part.size_bytes for part in parts)
        with await asyncio.to_thread(core.reserve, total_bytes):
            answer = await (await self._pool.living()).ask(
                "copy",
                of=[
                    {"store": core.store.url, "name": part.name, "etag": part.etag, "range": [0, part.size_bytes]}
                    for part in parts
                ],
                store=core.store.url,
                name=writable_name(call),
                etag=_etag_of(parts),
                digest=False,
                how={"if_absent": if_absent, "if_match": if_match, "metadata": begun.metadata},
            )
        core.store.account(total_bytes)
        await asyncio.to_thread(remove_upload, core.store, begun.id)
        location = f"{call.request.scheme}://{call.header('Host')}/{call.bucket}/{call.key}"
        return xml_response(completed_body(location, call.bucket, call.key, answer["etag"]))

    async def abort(self, call: Call) -> web.StreamResponse:
        core = await self._buckets.get(call.bucket)
        begun = await asyncio.to_thread(_find, core.store, call)
        await asyncio.to_thread(remove_upload, core.store, begun.id)
        return web.Response(status=204)

    async def list_parts(self, call: Call) -> web.StreamResponse:
        core = await self._buckets.get(call.bucket)
        begun = await asyncio.to_thread(_find, core.store, call)
        after = call.number("part-number-marker", 0, MAX_PARTS)
        most = call.number("max-parts", 1000, 1000)
        listed = core.store.list(_part_prefix(begun.id), start_after=_part_name(begun.id, after))
        parts = await asyncio.to_thread(lambda: [(_number_of(info), info) for info in islice(listed, most + 1)])
        body = parts_body(
            call.bucket,
            call.key,
            begun.id,
            parts[:most],
            after=after,
            max_parts=most,
            truncated=len(parts) > most,
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


def running_uploads(store: Store) -> list[_Begun]:
    """All that are under way, by key and then by age. Raises StoreError."""
    found = []
    for prefix in store.list_prefixes(MULTIPART_PREFIX):
        id = prefix.removeprefix(MULTIPART_PREFIX).removesuffix("/")
        try:
            found.append(_read_begun(store, id))
        except ObjectNotFoundError:
            continue  # just completed or aborted
    return sorted(found, key=lambda begun: (begun.key, begun.begun_s, begun.id))


def remove_upload(store: Store, id: str) -> None:
    """What says that it is under way goes last: a removal that breaks off can be done again."""
    for info in list(store.list(_part_prefix(id))):
        store.delete(info.name)
    store.delete(_begun_name(id))


def _listed(asked: ListRequest, id_marker: str, begun: list[_Begun]) -> bytes:
    uploads: list[_Begun] = []
    prefixes: list[str] = []
    last: _Begun | None = None
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


def _find(store: Store, call: Call) -> _Begun:
    """The upload that a request names. Raises UploadNotFoundError."""
    id = call.query.get("uploadId", "")
    try:
        begun = _read_begun(store, id) if _ID.fullmatch(id) else None
    except ObjectNotFoundError:
        begun = None
    if begun is None or begun.key != call.key:
        raise UploadNotFoundError("there is no such upload of this key: it was completed, aborted or never begun")
    return begun


def _read_begun(store: Store, id: str) -> _Begun:
    with store.open(_begun_name(id)) as reader:
        content: tuple[str, dict[str, str]] = msgpack.unpackb(reader.read(0, reader.info.size_bytes))
        return _Begun(id, content[0], content[1], reader.info.modified_s)


def _chosen(store: Store, begun: _Begun, asked: list[CompletedPart]) -> list[ObjectInfo]:
    """The parts that a completion names. Raises InvalidPartError, EntityTooSmallError."""
    there = {_number_of(info): info for info in store.list(_part_prefix(begun.id))}
    parts = []
    for item in asked:
        info = there.get(item.number)
        if info is None or info.etag != item.etag:
            raise InvalidPartError(f"part {item.number} was not uploaded, or has another ETag than {item.etag[:80]}")
        parts.append(info)
    small = [info for info in parts[:-1] if info.size_bytes < MIN_PART_BYTES]
    if small:
        raise EntityTooSmallError(f"all parts but the last have at least {MIN_PART_BYTES} bytes")
    return parts


def _etag_of(parts: list[ObjectInfo]) -> str:
    """As S3 makes it: the MD5 of the parts' MD5s, and how many they are."""
    digests = (bytes.fromhex(part.etag) if _MD5.fullmatch(part.etag) else part.etag.encode() for part in parts)
    return f"{hashlib.md5(b''.join(digests), usedforsecurity=False).hexdigest()}-{len(parts)}"


def _part_number(call: Call) -> int:
    number = call.number("partNumber", 0, MAX_PARTS + 1)
    if not 1 <= number <= MAX_PARTS:
        raise InvalidArgumentError(f"partNumber must lie in 1..{MAX_PARTS}")
    return number


def _asked_bytes(header: str) -> int:
    first, _, last = header.strip().removeprefix("bytes=").partition("-")
    return int(last) - int(first) + 1 if first.isdigit() and last.isdigit() else -1


def _begun_name(id: str) -> str:
    return f"{MULTIPART_PREFIX}{id}/begun"


def _part_prefix(id: str) -> str:
    return f"{MULTIPART_PREFIX}{id}/part/"


def _part_name(id: str, number: int) -> str:
    return f"{_part_prefix(id)}{number:05d}"


def _number_of(info: ObjectInfo) -> int:
    return int(info.name.rpartition("/")[2])
