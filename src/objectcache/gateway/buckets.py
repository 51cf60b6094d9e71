"""Buckets of a gateway: a store, its catalog and its core each."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress

from objectcache.cache.core import CacheCore
from objectcache.config import GatewayConfig, check_bucket, is_bucket
from objectcache.errors import (
    BucketNotEmptyError,
    BucketNotFoundError,
    ConfigError,
    InvalidBucketNameError,
    ObjectNotFoundError,
)
from objectcache.gateway.bucket_stores import BucketStores
from objectcache.gateway.listing import list_page
from objectcache.names import BUCKET_MARKER
from objectcache.s3.listings import ListRequest

log = logging.getLogger(__name__)

ABSENT_FOR_S = 1.0
"""How long a bucket that was not there counts as absent without another look."""


class BucketTable:
    """Buckets by name. Those of a store that is shared may be made and removed by other gateways. On the event loop."""

    def __init__(self, config: GatewayConfig, on_deleted: Callable[[str], None] = lambda url: None) -> None:
        """`on_deleted(url)`: the store of a bucket is gone."""
        self._config = config
        self._stores = BucketStores(config)
        self._on_deleted = on_deleted
        self._buckets: dict[str, CacheCore] = {}
        self._absent_until_s: dict[str, float] = {}
        self._looks: dict[str, asyncio.Task[None]] = {}
        self._changing = asyncio.Lock()

    async def open_all(self) -> None:
        """Open every bucket that is there, and make those that the configuration names."""
        await asyncio.to_thread(self._stores.prepare)
        for name in await asyncio.to_thread(self._stores.names):
            await self._open(name)
        for name in self._config.buckets:
            await self.create(name)

    async def create(self, name: str) -> bool:
        """Whether it was not there before. Raises InvalidBucketNameError, StoreError, CatalogError."""
        try:
            check_bucket(name)
        except ConfigError as error:
            raise InvalidBucketNameError(str(error)) from error
        async with self._changing:
            # One that is open here may have been removed by another gateway: then it is marked again.
            core = self._buckets.get(name) or await self._open(name)
            return await asyncio.to_thread(_mark, core)

    async def _open(self, name: str) -> CacheCore:
        core = await asyncio.to_thread(self._stores.open, name)
        self._buckets[name] = core
        self._absent_until_s.pop(name, None)
        return core

    def at_hand(self, name: str) -> CacheCore | None:
        """If it is open."""
        return self._buckets.get(name)

    async def get(self, name: str) -> CacheCore:
        """Raises BucketNotFoundError."""
        core = self._buckets.get(name)
        return core if core is not None else await self._find(name)

    async def _find(self, name: str) -> CacheCore:
        """One that another gateway may have made."""
        if not is_bucket(name):  # it would be a path to anywhere
            raise BucketNotFoundError(f"there is no bucket {name[:80]!r} here")
        if time.monotonic() >= self._absent_until_s.get(name, 0.0):
            # Shared by all who ask meanwhile: where the store hangs, each would wait for those before it.
            look = self._looks.get(name)
            if look is None:
                look = self._looks[name] = asyncio.create_task(self._look(name))
                look.add_done_callback(lambda _: self._looks.pop(name))
            await asyncio.shield(look)
            if name in self._buckets:
                return self._buckets[name]
        raise BucketNotFoundError(f"there is no bucket {name!r} here")

    async def _look(self, name: str) -> None:
        """Open it if it is there. Raises StoreError, CatalogError."""
        if await asyncio.to_thread(self._stores.has, name):
            async with self._changing:
                if name not in self._buckets:
                    await self._open(name)
            return
        if len(self._absent_until_s) > 1000:
            self._absent_until_s.clear()
        self._absent_until_s[name] = time.monotonic() + ABSENT_FOR_S

    async def listing(self) -> list[tuple[str, float]]:
        """Names, and when each was made (Unix time), in order."""
        names = await asyncio.to_thread(self._stores.names)
        for name in names:
            if name not in self._buckets:
                with suppress(BucketNotFoundError):  # removed since
                    await self._find(name)
        # Not those that another gateway has removed.
        cores = [(name, self._buckets[name]) for name in names if name in self._buckets]
        return await asyncio.to_thread(lambda: [(name, _made_s(core)) for name, core in cores])

    async def delete(self, name: str) -> None:
        """With the KV in it. Raises BucketNotFoundError, BucketNotEmptyError where there are plain objects."""
        async with self._changing:
            core = self._buckets.get(name)
            if core is None:
                raise BucketNotFoundError(f"there is no bucket {name!r} here")
            await asyncio.to_thread(_refuse_plain_objects, core)
            del self._buckets[name]
            await asyncio.to_thread(self._stores.remove, name, core)
            self._on_deleted(core.store.url)

    def items(self) -> list[tuple[str, CacheCore]]:
        return list(self._buckets.items())

    def close(self) -> None:
        for core in self._buckets.values():
            core.close()
        self._buckets.clear()
        self._stores.close()


def _mark(core: CacheCore) -> bool:
    """Whether the bucket had no mark yet that says since when it is there."""
    try:
        core.store.head(BUCKET_MARKER)
    except ObjectNotFoundError:
        core.store.put(BUCKET_MARKER, b"")
        return True
    return False


def _made_s(core: CacheCore) -> float:
    try:
        return core.store.head(BUCKET_MARKER).modified_s
    except ObjectNotFoundError:  # filled directly, not through a gateway
        return 0.0


def _refuse_plain_objects(core: CacheCore) -> None:
    if list_page(core.store, ListRequest("", max_keys=1)).objects:
        raise BucketNotEmptyError("the bucket holds objects: delete them first")
