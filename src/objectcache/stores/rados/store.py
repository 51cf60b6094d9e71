"""Objects in a pool of Ceph's RADOS, without a gateway between."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import ClassVar

from objectcache.errors import ConfigError, ObjectNotFoundError, StoreError
from objectcache.stores.base import (
    ObjectInfo,
    ObjectReader,
    ObjectUpload,
    Store,
    StoreUsage,
    check_metadata,
    check_prefix,
)
from objectcache.stores.rados.connection import Pool, RadosTiming
from objectcache.stores.rados.entry import Entry
from objectcache.stores.rados.index import Index
from objectcache.stores.rados.listing import list_directories, list_keys
from objectcache.stores.rados.options import RadosOptions, parse_rados_url
from objectcache.stores.rados.publishing import Publication, Publisher
from objectcache.stores.rados.reader import RadosFetching, RadosReader
from objectcache.stores.rados.space import RadosSpace
from objectcache.stores.rados.stripes import Stripes
from objectcache.stores.rados.sweeping import Sweeper, SweepTiming
from objectcache.stores.rados.upload import RadosUpload

STRIPE_BYTES = 4 << 20
"""Of a data object. What Ceph's own layers use, so that clusters are tuned for it; a layer of a segment lies in one or
two; a segment lies on many OSDs, which read and recover their part of it at once."""
INLINE_BYTES = 4096
"""What the index keeps itself: one request to write or read it. More would weigh on the OSDs' databases."""
DEPTH = 32
"""Requests under way at once, of all of a store's readers and uploads."""
PREFETCH_BYTES = 256 << 20


class RadosStore(Store):
    """The objects under a prefix of a pool, which exists. Nothing is asked of the cluster before the first call.

    Every call is bounded in time (`RadosTiming`). Readers go on for `SweepTiming.grace_s` after the deletion of their
    object. With `limit_bytes`, what lies under the prefix is counted; without, quotas of the pool are the limit.
    """

    far: ClassVar[bool] = True

    def __init__(
        self,
        options: RadosOptions,
        *,
        limit_bytes: int | None = None,
        timing: RadosTiming | None = None,
        sweep_timing: SweepTiming | None = None,
        inline_bytes: int = INLINE_BYTES,
        stripe_bytes: int = STRIPE_BYTES,
        depth: int = DEPTH,
        prefetch_bytes: int = PREFETCH_BYTES,
        rescan_s: float = 30.0,
    ) -> None:
        if stripe_bytes < 1 or depth < 1:
            raise ConfigError(f"stripe_bytes and depth must be positive, got {stripe_bytes} and {depth}")
        self.url = options.url
        self._options = options
        self._below = f"{options.prefix}/" if options.prefix else ""
        self._inline_bytes, self._stripe_bytes = inline_bytes, stripe_bytes
        self._pool = Pool(options, timing or RadosTiming(), depth)
        self._index, self._stripes = Index(self._pool), Stripes(self._pool)
        self._space = RadosSpace(self._index, self._below, limit_bytes, rescan_s)
        self._publisher = Publisher(self._index, self._space)
        self._sweeper = Sweeper(self._index, self._stripes, sweep_timing or SweepTiming(), self._publisher.take_deleted)
        self._fetching = RadosFetching(self._pool, self._index, self._stripes, stripe_bytes, prefetch_bytes)

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
        how = Publication(name, key, if_absent, if_match, dict(check_metadata(metadata or {})))
        if size_bytes is not None and size_bytes < 0:
            raise StoreError(f"an object cannot have {size_bytes} bytes")
        self._sweeper.nudge()
        return RadosUpload(
            how,
            self._index,
            self._stripes,
            self._publisher,
            self._space,
            self._sweeper.timing,
            inline_bytes=self._inline_bytes,
            stripe_bytes=self._stripe_bytes,
            patience_s=self._pool.patience_s,
            size_bytes=size_bytes or 0,
        )

    def open(self, name: str, *, size_bytes: int | None = None) -> ObjectReader:
        key = self._options.key(name)
        if size_bytes is not None:
            return RadosReader(ObjectInfo(name, size_bytes, 0.0, ""), key, self._fetching, None)
        located = self._found(name, key)
        return RadosReader(located[0].info(name), key, self._fetching, located)

    def head(self, name: str) -> ObjectInfo:
        return self._found(name, self._options.key(name))[0].info(name)

    def _found(self, name: str, key: str) -> tuple[Entry, bytes]:
        located = self._index.lookup(key)
        if located is None:
            raise ObjectNotFoundError(f"{name!r} is not in {self.url}")
        return located

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        for key, text in list_keys(self._index, self._below, prefix, start_after, self._pool.patience_s):
            yield Entry.decode(key, text).info(key[len(self._below) :], metadata=False)

    def list_prefixes(self, prefix: str = "") -> Iterator[str]:
        for directory in list_directories(self._index, self._below, check_prefix(prefix), self._pool.patience_s):
            yield directory[len(self._below) :]

    def delete(self, name: str) -> None:
        self._publisher.delete(name, self._options.key(name))
        self._sweeper.nudge()

    def usage(self) -> StoreUsage:
        return self._space.usage()

    def account(self, delta_bytes: int) -> None:
        self._space.settle(0, delta_bytes)

    def request_counts(self) -> dict[str, int]:
        """Requests so far: `get` (ranges of data objects), `head` (look-ups), `put`, `list` (pages), `delete`."""
        return self._pool.counts()

    def sweep(self) -> None:
        """Remove now what is due of deleted objects and dead uploads, of all who use the pool. Raises StoreError."""
        self._sweeper.sweep()

    def close(self) -> None:
        self._sweeper.close()
        self._space.close()
        self._pool.close()


def open_rados_store(url: str, limit_bytes: int | None = None) -> RadosStore:
    """The store at `rados://…`; what the URL leaves open is the environment's. Raises ConfigError."""
    return RadosStore(parse_rados_url(url, os.environ), limit_bytes=limit_bytes)
