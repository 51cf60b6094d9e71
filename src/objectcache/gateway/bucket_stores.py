"""Where buckets keep their objects: a directory each below `data`."""

from __future__ import annotations

import shutil

from objectcache.cache.core import CacheCore
from objectcache.cache.directory import OBJECTS, open_directory
from objectcache.config import GatewayConfig


class BucketStores:
    """Opens, finds and removes the stores of buckets. Calls block."""

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config

    def prepare(self) -> None:
        self._config.data.mkdir(parents=True, exist_ok=True)

    def names(self) -> list[str]:
        """Those that are there, in order."""
        return sorted(path.name for path in self._config.data.iterdir() if (path / OBJECTS).is_dir())

    def has(self, name: str) -> bool:
        return (self._config.data / name / OBJECTS).is_dir()

    def open(self, name: str) -> CacheCore:
        """Its core; the store is made when it is not there. Raises StoreError, CatalogError."""
        config = self._config
        return open_directory(config.data / name, limit_bytes=config.limit_bytes, lease_ttl_s=config.lease_ttl_s)

    def remove(self, name: str, core: CacheCore) -> None:
        """All of the bucket, which `core` is closed for."""
        core.close()
        shutil.rmtree(self._config.data / name, ignore_errors=True)

    def close(self) -> None:
        """Let go of what is shared by the buckets."""
