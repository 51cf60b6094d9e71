"""Chunks, readable by any S3 client: `GET /bucket/.chunks/<key>` and `…/<key>/<group>.<shard>`.

A chunk is the slices of all its layers, one after the other in ascending order of layers; without a part, those of all
parts that are stored, by group and shard. Read-only, verified before it is answered, and not in listings.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import NamedTuple

from aiohttp import web

from objectcache.cache.core import CacheCore
from objectcache.catalog import chunk_holders
from objectcache.errors import IntegrityError, KeyNotFoundError, ObjectNotFoundError
from objectcache.gateway.buckets import BucketTable
from objectcache.gateway.call import Call
from objectcache.gateway.object_headers import byte_range, names_etag
from objectcache.gateway.object_keys import CHUNK_PREFIX
from objectcache.integrity import LayerBinding
from objectcache.layout import DIGEST_BYTES
from objectcache.segment import CommittedLayer

_NAME = re.compile(rf"{re.escape(CHUNK_PREFIX)}([0-9a-f]{{64}})(?:/([0-9]{{1,4}})\.([0-9]{{1,6}}))?")


class _Place(NamedTuple):
    """Where a part's chunk is: a segment, and which of its chunks."""

    group: int
    shard: int
    segment: str
    at: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _Chunk:
    key: str
    namespace: str
    places: tuple[_Place, ...]

    @property
    def size_bytes(self) -> int:
        return sum(place.size_bytes for place in self.places)

    def headers(self) -> dict[str, str]:
        parts = ",".join(f"{place.group}.{place.shard}" for place in self.places)
        return {
            "ETag": f'"{self.key}"',
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
            "x-amz-meta-kv-namespace": self.namespace,
            "x-amz-meta-kv-parts": parts,
        }


class ChunkRoutes:
    """GET and HEAD below `.chunks/`."""

    def __init__(self, buckets: BucketTable) -> None:
        self._buckets = buckets

    async def get(self, call: Call) -> web.StreamResponse:
        core = await self._buckets.get(call.bucket)
        chunk = await asyncio.to_thread(_find, core, call.key)
        headers = chunk.headers()
        if names_etag(call.header("If-None-Match") or '""', chunk.key):
            return web.Response(status=304, headers=headers)
        part = byte_range(call.request.headers.get("Range"), chunk.size_bytes)
        try:
            body = await asyncio.to_thread(_read, core, chunk)
        except (IntegrityError, ObjectNotFoundError) as error:
            raise KeyNotFoundError(f"chunk {chunk.key} is stored, but damaged or gone: {error}") from error
        if part is None:
            return web.Response(body=body, headers=headers)
        first, stop = part
        headers["Content-Range"] = f"bytes {first}-{stop - 1}/{chunk.size_bytes}"
        return web.Response(body=body[first:stop], status=206, headers=headers)

    async def head(self, call: Call) -> web.StreamResponse:
        chunk = await asyncio.to_thread(_find, await self._buckets.get(call.bucket), call.key)
        return web.Response(headers={"Content-Length": str(chunk.size_bytes)} | chunk.headers())


def _find(core: CacheCore, name: str) -> _Chunk:
    """Raises KeyNotFoundError."""
    asked = _NAME.fullmatch(name)
    if asked is None:
        raise KeyNotFoundError(f"a chunk is {CHUNK_PREFIX}<64 hex digits>, or that with /<group>.<shard> behind it")
    key = bytes.fromhex(asked[1])
    wanted = None if asked[2] is None else (int(asked[2]), int(asked[3]))
    found: dict[tuple[int, int], _Place] = {}
    namespace = b""
    for record, index in chunk_holders(core.catalog, key):
        part = (record.group, record.shard)
        if part in found or wanted not in (None, part) or namespace not in (b"", record.namespace):
            continue
        namespace = record.namespace
        found[part] = _Place(*part, record.name, index, sum(record.slice_bytes))
    if not found:
        raise KeyNotFoundError(f"chunk {name.removeprefix(CHUNK_PREFIX)} is not stored")
    return _Chunk(asked[1], namespace.hex(), tuple(found[part] for part in sorted(found)))


def _read(core: CacheCore, chunk: _Chunk) -> bytes:
    """All of its bytes, verified. Raises IntegrityError, StoreError."""
    data = memoryview(bytearray(chunk.size_bytes))
    at = 0
    for place in chunk.places:
        record = core.catalog.segment_named(place.segment)
        if record is None:
            raise ObjectNotFoundError(f"segment {place.segment} is gone")
        with core.store.open(record.name, size_bytes=record.total_bytes) as source:
            for position, (layer, size) in enumerate(zip(record.layers, record.slice_bytes, strict=True)):
                digest = record.packed_row_digests[position * DIGEST_BYTES : (position + 1) * DIGEST_BYTES]
                committed = CommittedLayer(
                    record.geometry, position, LayerBinding(place.group, place.shard, layer), record.leaf, digest
                )
                out = data[at : at + size]
                committed.read_chunks(source, place.at, place.at + 1, [bytes.fromhex(chunk.key)], out)
                at += size
    return bytes(data)
