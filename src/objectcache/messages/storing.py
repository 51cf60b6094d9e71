"""Segments that are stored, and committed."""

from __future__ import annotations

from dataclasses import dataclass

from objectcache.descriptor import MAX_CHUNK_INDEX, MAX_ITEMS
from objectcache.errors import RequestError
from objectcache.keys import KEY_BYTES
from objectcache.layout import MAX_GROUPS, MAX_SHARDS
from objectcache.messages.packing import pack, unpack

MAX_COMMIT = MAX_ITEMS
MAX_SEGMENT_BYTES = 1 << 44


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """What an upload will be; travels beside the body, in the `x-kv-store` header (base64)."""

    segment: str
    namespace: bytes
    group: int
    shard: int
    leaf: bytes
    first: int
    stop: int

    def encode(self) -> bytes:
        return pack(
            segment=self.segment,
            namespace=self.namespace,
            group=self.group,
            shard=self.shard,
            leaf=self.leaf,
            first=self.first,
            stop=self.stop,
        )

    @classmethod
    def decode(cls, data: bytes) -> StoreRequest:
        fields = unpack(data, "store")
        request = cls(
            fields.text("segment", 1024),
            fields.binary("namespace", KEY_BYTES),
            fields.integer("group", 0, MAX_GROUPS - 1),
            fields.integer("shard", 0, MAX_SHARDS - 1),
            fields.binary("leaf", KEY_BYTES),
            fields.integer("first", 0, MAX_CHUNK_INDEX),
            fields.integer("stop", 0, MAX_CHUNK_INDEX),
        )
        if request.first >= request.stop:
            raise RequestError(f"store: chunk range [{request.first}, {request.stop}) is empty or negative")
        return request


@dataclass(frozen=True, slots=True)
class CommitRequest:
    """Names of finished uploads: those to make visible, all at once, and those to drop."""

    commit: tuple[str, ...]
    discard: tuple[str, ...] = ()

    def encode(self) -> bytes:
        return pack(commit=list(self.commit), discard=list(self.discard))

    @classmethod
    def decode(cls, data: bytes) -> CommitRequest:
        fields = unpack(data, "commit")
        names = [fields.items(which, MAX_COMMIT) for which in ("commit", "discard")]
        if any(not isinstance(name, str) for which in names for name in which):
            raise RequestError("commit.commit and commit.discard are lists of segment names")
        return cls(tuple(names[0]), tuple(names[1]))
