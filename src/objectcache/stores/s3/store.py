"""Objects in a bucket of S3, or of anything that speaks S3."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import ClassVar

from objectcache.errors import ConfigError, StoreError
from objectcache.stores.base import (
    UNLIMITED_BYTES,
    ObjectInfo,
    ObjectReader,
    ObjectUpload,
    Store,
    StoreUsage,
    check_metadata,
    check_prefix,
)
from objectcache.stores.s3.calls import S3Calls, S3Timing, Stored
from objectcache.stores.s3.listing import is_beginning, plan_listing
from objectcache.stores.s3.metadata import to_attributes
from objectcache.stores.s3.options import S3Options, parse_s3_url
from objectcache.stores.s3.reader import S3Fetching, S3Reader
from objectcache.stores.s3.upload import Publication, S3Upload

PART_BYTES = 8 << 20
"""Of an upload in several parts, and of one GET among several."""
READ_THREADS = 16
PREFETCH_BYTES = 256 << 20


class S3Store(Store):
    """The objects under a prefix of a bucket, which exists. Nothing is asked of the service before the first call.

    Every call is bounded in time (`S3Timing`). Readers do not survive the deletion of their object. Uploads above
    `part_bytes` are conditional only as far as `S3Upload` says. There is no byte limit of its own: that is what a
    bucket's lifecycle rules and quotas are for.
    """

    far: ClassVar[bool] = True

    def __init__(
        self,
        options: S3Options,
        *,
        timing: S3Timing | None = None,
        part_bytes: int = PART_BYTES,
        read_threads: int = READ_THREADS,
        prefetch_bytes: int = PREFETCH_BYTES,
    ) -> None:
        self.url = options.url
        self._options = options
        self._part_bytes = part_bytes
        self._calls = S3Calls(options, timing or S3Timing())
        self._fetching = S3Fetching(part_bytes, read_threads, prefetch_bytes)

    def upload(
        self,
        name: str,
        *,
        size_bytes: int | None = None,
        if_absent: bool = False,
        if_match: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectUpload:
        key = self._options.key(name)
        kept = dict(check_metadata(metadata or {}))
        if size_bytes is not None and size_bytes < 0:
            raise StoreError(f"an object cannot have {size_bytes} bytes")
        how = Publication(name, key, if_absent, if_match, kept, to_attributes(kept))
        return S3Upload(self._calls, how, self._part_bytes)

    def open(self, name: str, *, size_bytes: int | None = None) -> ObjectReader:
        key = self._options.key(name)
        info = self.head(name) if size_bytes is None else ObjectInfo(name, size_bytes, 0.0, "")
        return S3Reader(info, key, self._calls, self._fetching)

    def get(self, name: str) -> bytes:
        """A whole object: one request when it fits into a part."""
        key = self._options.key(name)
        data, stored = self._calls.get_small(key, self._part_bytes)
        if data is not None:
            return bytes(data)
        with S3Reader(_info(name, stored), key, self._calls, self._fetching) as reader:
            return reader.read(0, stored.size_bytes)

    def head(self, name: str) -> ObjectInfo:
        return _info(name, self._calls.head(self._options.key(name)))

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        plan = plan_listing(prefix, start_after)
        if plan is None:
            return
        for key, stored in self._calls.keys(
            self._below(plan.directory), self._below(plan.offset) if plan.offset else ""
        ):
            name = self._name(key)
            if plan.admits(name):
                yield _info(name, stored)
            elif plan.ends_before(name):
                return

    def list_prefixes(self, prefix: str = "") -> Iterator[str]:
        if not is_beginning(check_prefix(prefix)):
            return
        names = [self._name(key) + "/" for key in self._calls.directories(self._below(prefix.rstrip("/")))]
        yield from sorted((name for name in names if len(name) > 1), key=str.encode)

    def delete(self, name: str) -> None:
        self._calls.delete(self._options.key(name))

    def usage(self) -> StoreUsage:
        """Nothing is counted: that would take a LIST of everything."""
        return StoreUsage(0, None)

    def request_counts(self) -> dict[str, int]:
        """Requests so far: `get`, `head`, `put`, `list`, `delete`, `multipart` (begin, parts and end)."""
        return self._calls.counts()

    def close(self) -> None:
        self._fetching.close()

    def _below(self, name: str) -> str:
        """The key of a name or directory, which may be ""."""
        return "/".join(part for part in (self._options.prefix, name) if part)

    def _name(self, key: str) -> str:
        """The name of a key; "" for a key that is the prefix itself, as some consoles make them."""
        return key[len(self._options.prefix) + 1 :] if self._options.prefix else key


def _info(name: str, stored: Stored) -> ObjectInfo:
    return ObjectInfo(name, stored.size_bytes, stored.modified_s, stored.etag, stored.metadata)


def open_s3_store(url: str, limit_bytes: int | None = None) -> S3Store:
    """The store at `s3://…`; what the URL leaves open is the environment's. Raises ConfigError."""
    if limit_bytes is not None and limit_bytes < UNLIMITED_BYTES:
        raise ConfigError(
            "an S3 store keeps no byte limit: leave it out, and bound the bucket with a lifecycle rule or a quota"
        )
    return S3Store(parse_s3_url(url, os.environ))
