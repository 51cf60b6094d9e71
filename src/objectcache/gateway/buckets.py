"""Buckets of a gateway: a store, its catalog and its core each."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from objectcache.cache.core import CacheCore
from objectcache.cache.directory import OBJECTS, open_directory
from objectcache.config import GatewayConfig, check_bucket
from objectcache.errors import BucketNotFoundError, ConfigError, RequestError

log = logging.getLogger(__name__)


class BucketTable:
    """Buckets by name; each is a directory of `config.data` with the objects and the catalog."""

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config
        self._buckets: dict[str, CacheCore] = {}

    async def open_all(self) -> None:
        """Open every bucket that is on disk, and those that the configuration names."""
        self._config.data.mkdir(parents=True, exist_ok=True)
        found = {path.name for path in self._config.data.iterdir() if (path / OBJECTS).is_dir()}
        for name in sorted(found | set(self._config.buckets)):
            await self.create(name)

    async def create(self, name: str) -> None:
        """Raises RequestError for a name that no bucket can have."""
        if name in self._buckets:
            return
        try:
            check_bucket(name)
        except ConfigError as error:
            raise RequestError(str(error)) from error
        self._buckets[name] = await asyncio.to_thread(self._open, self._config.data / name)

    def _open(self, path: Path) -> CacheCore:
        return open_directory(path, limit_bytes=self._config.limit_bytes, lease_ttl_s=self._config.lease_ttl_s)

    def get(self, name: str) -> CacheCore:
        """Raises BucketNotFoundError."""
        core = self._buckets.get(name)
        if core is None:
            raise BucketNotFoundError(f"there is no bucket {name!r} here")
        return core

    def items(self) -> list[tuple[str, CacheCore]]:
        return list(self._buckets.items())

    def close(self) -> None:
        for core in self._buckets.values():
            core.close()
        self._buckets.clear()
